"""What browsers are given as it stands: the client `freya.js` and its companions, and the cockpit page."""

from pathlib import Path

FOLDER = Path(__file__).parent
