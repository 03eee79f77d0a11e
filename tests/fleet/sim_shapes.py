"""What the small made-up fleet of the property tests is like, and how its rollouts go."""

from nixfleet.model.statements import Activation, StopAt, Wave
from nixfleet.rollout.asking import RolloutWishes

ANY, THEIRS = "any", "theirs"
RINGS = ("main", "canary")
SCENARIO = {
    "name": "acme",
    "group": [
        {"name": "web-{n}", "count": 3, "tags": {"ring": ["canary", "main", "main"]}, "mbyte_s": [5, 20]},
        {"name": "kiosk-{n}", "count": 3, "tags": {"ring": ["main"], "screen": ["a"]}, "fails": 0.2, "asks": 1},
    ],
    "release": [
        {"name": "good", "version": "25.11.1", "mib": 20},
        {"name": "bad", "version": "25.11.2", "mib": 20, "bad": [{"on": {"screen": ["a"]}, "unit": "ui.service"}]},
        {"name": "kernel", "version": "25.11.3", "mib": 20, "reboot": True},
        {"name": "worse", "version": "25.11.4", "mib": 20, "bad": [{"unit": "net.service"}]},
    ],
}
PATIENT = Activation(confirm_s=1_800)
"""Long enough for a machine that is slow at this speed."""
RELEASES = ("good", "bad", "kernel", "worse", ANY)
SHAPES = (
    RolloutWishes(waves=[Wave(members="100%")], max_in_flight=2, stop_at=StopAt(count=2), soak_s=0),
    RolloutWishes(
        waves=[Wave(members=1), Wave(members="100%")],
        max_in_flight=1,
        stop_at=StopAt(count=1),
        soak_s=60,
    ),
    RolloutWishes(
        waves=[Wave(members=1), Wave(members="100%", gate="signed")],
        max_in_flight=3,
        stop_at=StopAt(count=2),
        soak_s=30,
    ),
    RolloutWishes(
        waves=[Wave(members={"ring": ("canary",)}), Wave(members="50%"), Wave(members="100%")],
        max_in_flight=2,
        stop_at=StopAt(count=2),
        soak_s=60,
        device_timeout_s=600,
    ),
)
CLOCKS_S = (-3_600, -90, -20, 20, 90, 3_600)
"""By how much a coordinator's clock is stepped."""
DEVICE_CLOCKS_S = (-1_764_000_000, 1_400_000_000, -3_600, 0)
"""How far a device's clock is off: it is 1970 there, 2070, an hour late, right."""
