"""Routes that show rollouts, releases and everything at once to people."""

from litestar import get
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler

from nixfleet.model.answers import Releases, Rollouts
from nixfleet.model.views import ReleaseView, RolloutDetail, Snapshot
from nixfleet.server.auth import AnyRequest, Auth
from nixfleet.server.coordinator.core import Coordinator


def view_routes(coordinator: Coordinator, auth: Auth) -> list[ControllerRouterHandler]:
    """Make the routes."""
    views = coordinator.views

    @get("/v1/rollouts")
    async def rollouts(request: AnyRequest) -> Rollouts:
        """List the rollouts, newest first."""
        await auth.person(request)
        return Rollouts(rollouts=tuple(views.rollouts.all()))

    @get("/v1/rollouts/{rollout:str}")
    async def rollout_detail(request: AnyRequest, rollout: FromPath[str]) -> RolloutDetail:
        """Show a rollout with its members, by digest or its start."""
        await auth.person(request)
        return views.rollouts.detail(views.rollouts.find(rollout))

    @get("/v1/releases")
    async def releases(request: AnyRequest) -> Releases:
        """List the releases, newest first."""
        await auth.person(request)
        return Releases(releases=tuple(views.releases.all()))

    @get("/v1/releases/{release:str}")
    async def release_detail(request: AnyRequest, release: FromPath[str]) -> ReleaseView:
        """Show a release with its lines, by digest, or the newest of a name."""
        await auth.person(request)
        return await views.releases.one(release)

    @get("/v1/snapshot")
    async def snapshot(request: AnyRequest) -> Snapshot:
        """Show everything that a console shows, and the number of the last change in it."""
        await auth.person(request)
        return coordinator.snapshot()

    return [rollouts, rollout_detail, releases, release_detail, snapshot]
