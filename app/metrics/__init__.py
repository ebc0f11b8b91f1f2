"""What the gateway measures of itself, for Prometheus. `prometheus_client` is imported only where metrics are on."""
