"""The exact, event-driven simulator. It is handed a policy and imports none."""
