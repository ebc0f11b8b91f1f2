"""What the gateway measures of itself, for Prometheus and as spans of OpenTelemetry. `prometheus_client` and the SDK of
OpenTelemetry are imported only where they are used.
"""
