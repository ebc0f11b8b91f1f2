"""Alerts for the operator: one signed webhook, sent when something changes for the worse or back."""
