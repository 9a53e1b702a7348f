"""The gateway under test, in a process of its own: what `freya serve` serves, without the parts it brings along."""

from freya_gateway.app import create_app
from freya_gateway.logging import configure_logging
from freya_gateway.server import GatewayServer
from freya_gateway.settings import load_settings


def main() -> None:
    """Serves by the settings of the environment, and prints the port once it listens."""
    settings = load_settings()
    configure_logging(settings)
    app = create_app(settings)
    GatewayServer(
        app,
        settings,
        drain=lambda grace: app.state.gateway.drain(grace),
        ready=lambda port: print(f"listening on {port}", flush=True),
    ).run()


if __name__ == "__main__":
    main()
