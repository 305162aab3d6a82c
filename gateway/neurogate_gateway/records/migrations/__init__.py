"""Steps of the schema, run when a gateway opens the records."""
