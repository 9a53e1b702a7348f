"""The port to the model: types, the OpenAI-compatible client, and the local model for development."""
