"""A gateway process for tests: `python -m tests.replica`, settings from the environment, one line when it listens."""

from freya_gateway.app import create_app
from freya_gateway.logging import configure_logging
from freya_gateway.server import GatewayServer
from freya_gateway.settings import Settings

if __name__ == "__main__":
    settings = Settings(_env_file=None)  # pyright: ignore[reportCallIssue]
    configure_logging(settings)
    app = create_app(settings)
    GatewayServer(
        app,
        settings,
        drain=lambda grace: app.state.gateway.drain(grace),
        ready=lambda port: print(f"listening on {port}", flush=True),
    ).run()
