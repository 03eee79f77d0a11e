"""Build the argument vectors of every Nix command that nixfleet runs. Pure; never starts anything.

Old commands (`nix-store`, `nix-env`) do all that a device needs, because they behave the same from 2.8 to 2.34 and
need no experimental feature; the new ones are used only where an admin's machine evaluates a flake.
Store paths stand behind no `--`, which the old commands do not know: callers pass only checked paths, which start
with `/nix/store/` and so can never be read as a flag.
"""

from collections.abc import Sequence

from nixfleet.nix.values import Cache, FetchLimits

Options = Sequence[tuple[str, str]]

_FLAKES = ("--extra-experimental-features", "nix-command flakes")


def _options(options: Options) -> tuple[str, ...]:
    return tuple(word for name, value in options for word in ("--option", name, value))


def cache_options(caches: Sequence[Cache], limits: FetchLimits) -> Options:
    """List the settings of a download: SET caches and keys (never append), build nothing, believe no old answer."""
    return (
        ("substitute", "true"),
        ("substituters", " ".join(cache.url for cache in caches)),
        ("trusted-public-keys", " ".join(dict.fromkeys(cache.key for cache in caches))),
        ("require-sigs", "true"),
        # A path asked for before it was pushed would stay "missing" for an hour.
        ("narinfo-cache-negative-ttl", "0"),
        ("narinfo-cache-positive-ttl", "0"),
        ("connect-timeout", str(limits.connect_s)),
        ("stalled-download-timeout", str(limits.stall_s)),
        ("download-attempts", str(limits.attempts)),
        *NEVER_BUILD,
    )


# Nothing is ever built on a device: no local job, no remote builder, no build when a download fails.
NEVER_BUILD: Options = (("max-jobs", "0"), ("builders", ""), ("fallback", "false"))

# Take no path from anywhere but the local store.
LOCAL_ONLY: Options = (("substitute", "false"), ("substituters", ""), *NEVER_BUILD)


def version() -> tuple[str, ...]:
    """Print Nix's version."""
    return ("nix-store", "--version")


def check_validity(path: str, options: Options = ()) -> tuple[str, ...]:
    """Ask whether a path is in the local store."""
    return ("nix-store", "--check-validity", path, *_options(options))


def requisites(path: str, options: Options = ()) -> tuple[str, ...]:
    """List the closure of a path, references before referrers."""
    return ("nix-store", "--query", "--requisites", path, *_options(options))


def dump_db(paths: Sequence[str], options: Options = ()) -> tuple[str, ...]:
    """Print the registrations of the paths, in the format of `nix-store --load-db`."""
    return ("nix-store", "--dump-db", *paths, *_options(options))


def realise(path: str, root: str, options: Options = ()) -> tuple[str, ...]:
    """Download a path and its closure, and root it."""
    return ("nix-store", "--realise", path, "--add-root", root, "--log-format", "internal-json", *_options(options))


def add_root(path: str, root: str, options: Options = ()) -> tuple[str, ...]:
    """Root a path that is here already, by a link that the garbage collector follows."""
    return ("nix-store", "--realise", path, "--add-root", root, *_options((*options, *LOCAL_ONLY)))


def dry_run(path: str, options: Options = ()) -> tuple[str, ...]:
    """Say what a download would fetch."""
    return ("nix-store", "--realise", path, "--dry-run", *_options(options))


def verify_paths(paths: Sequence[str], options: Options = ()) -> tuple[str, ...]:
    """Compare the contents of paths with their registered hashes."""
    return ("nix-store", "--verify-path", *paths, *_options(options))


def repair_paths(paths: Sequence[str], options: Options = ()) -> tuple[str, ...]:
    """Download damaged paths again and put them in place."""
    return ("nix-store", "--repair-path", *paths, *_options(options))


def print_dead(options: Options = ()) -> tuple[str, ...]:
    """List the paths that nothing keeps."""
    return ("nix-store", "--gc", "--print-dead", *_options(options))


def delete(paths: Sequence[str], options: Options = ()) -> tuple[str, ...]:
    """Delete dead paths."""
    return ("nix-store", "--delete", *paths, *_options(options))


def collect_garbage(max_freed_bytes: int, options: Options = ()) -> tuple[str, ...]:
    """Delete dead paths until that much is free."""
    return ("nix-store", "--gc", "--max-freed", str(max_freed_bytes), *_options(options))


def dump(file: str) -> tuple[str, ...]:
    """Write a file or folder as a NAR to standard output; no store is asked."""
    return ("nix-store", "--dump", file)


def set_profile(path: str, profile: str, options: Options = ()) -> tuple[str, ...]:
    """Make a path the current generation of a profile; it must be here already."""
    return ("nix-env", "--profile", profile, "--set", path, *_options((*options, *LOCAL_ONLY)))


def delete_generations(numbers: Sequence[int], profile: str, options: Options = ()) -> tuple[str, ...]:
    """Delete generations of a profile by number."""
    return ("nix-env", "--profile", profile, "--delete-generations", *map(str, numbers), *_options(options))


def build_flake(installable: str, extra: Sequence[str], options: Options = ()) -> tuple[str, ...]:
    """Build a flake's output, printing what was built as JSON."""
    return ("nix", *_FLAKES, "build", "--json", "--no-link", *_options(options), *extra, installable)


def eval_flake(installable: str, apply: str | None, extra: Sequence[str], options: Options = ()) -> tuple[str, ...]:
    """Evaluate a flake's output to JSON, through a Nix function if one is given."""
    through = () if apply is None else ("--apply", apply)
    return ("nix", *_FLAKES, "eval", "--json", *_options(options), *through, *extra, installable)
