"""Routes that show rollouts, releases and everything at once to people."""

from functools import partial

from litestar import get
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler

from nixfleet.model.answers import Releases, Rollouts
from nixfleet.model.views import ReleaseView, RolloutDetail, Snapshot
from nixfleet.server.auth import AnyRequest, Auth, Caller
from nixfleet.server.coordinator.core import Coordinator


def view_routes(coordinator: Coordinator, auth: Auth) -> list[ControllerRouterHandler]:
    """Make the routes."""
    views = coordinator.views

    @get("/v1/rollouts")
    async def rollouts(request: AnyRequest) -> Rollouts:
        """List the rollouts that the caller may see, newest first."""
        reader = await auth.reader(request, "list the rollouts")
        return Rollouts(rollouts=tuple(views.rollouts.all(reader.reach)))

    @get("/v1/rollouts/{rollout:str}")
    async def rollout_detail(request: AnyRequest, rollout: FromPath[str]) -> RolloutDetail:
        """Show a rollout with the members that the caller may read of, by digest or its start."""
        reader = await auth.reader(request, "read rollouts")
        work = await coordinator.known(partial(views.rollouts.find, rollout))
        if views.rollouts.seen(work, reader.reach) is None:
            what = f"read rollout {work.id[:12]}"
            raise await auth.refuse(Caller(reader.key), what, f"to {what}, which touches no device within its grants")
        return views.rollouts.detail(work, reader.reach)

    @get("/v1/releases")
    async def releases(request: AnyRequest) -> Releases:
        """List the releases, newest first."""
        await auth.reader(request, "list the releases")
        return Releases(releases=tuple(views.releases.all()))

    @get("/v1/releases/{release:str}")
    async def release_detail(request: AnyRequest, release: FromPath[str]) -> ReleaseView:
        """Show a release with the lines that the caller may read, by digest, or the newest of a name."""
        reader = await auth.reader(request, "read releases")
        found = await coordinator.known(partial(views.releases.find, release))
        return await views.releases.one(found, reader.reach)

    @get("/v1/snapshot")
    async def snapshot(request: AnyRequest) -> Snapshot:
        """Show everything that a console shows and its key may read, and the number of the last change in it."""
        reader = await auth.reader(request, "read everything at once")
        return coordinator.snapshot(reader.key, reader.reach)

    return [rollouts, rollout_detail, releases, release_detail, snapshot]
