# nixfleet, whole (console, coordinator, command line, agent) or the agent alone (`agentOnly`).
{ lib, python3Packages, agentOnly ? false }:
let
  inherit (lib.importTOML ../pyproject.toml) project;
in
python3Packages.buildPythonApplication {
  pname = if agentOnly then "nixfleet-agent" else "nixfleet";
  inherit (project) version;
  pyproject = true;
  # What is built, and nothing else: a change of tests or docs builds nothing anew.
  src = lib.cleanSourceWith {
    src = ../.;
    name = "nixfleet-source";
    filter = path: _:
      let inside = lib.removePrefix "${toString ../.}/" (toString path);
      in inside == "src" || lib.hasPrefix "src/" inside || inside == "pyproject.toml" || inside == "README.md" || lib.hasPrefix "LICENSE" inside;
  };

  build-system = [ python3Packages.setuptools ];

  # What each program imports (pyproject.toml has the same list): the agent's closure stays small.
  dependencies = with python3Packages;
    [ msgspec httpx pynacl platformdirs ]
    ++ lib.optionals (!agentOnly) (
      [ zstandard litestar uvicorn sqlalchemy aiosqlite asyncpg alembic prometheus-client textual click ]
      ++ sqlalchemy.optional-dependencies.asyncio
    );
  dontCheckRuntimeDeps = agentOnly;

  # The test suite needs root, namespaces and real services: it runs in CI, not in the build sandbox.
  doCheck = false;
  pythonImportsCheck = [ "nixfleet.agent.main" ] ++ lib.optionals (!agentOnly) [ "nixfleet.cli.main" "nixfleet.server.serve" "nixfleet.tui.app" ];

  meta = {
    inherit (project) description;
    license = with lib.licenses; [ mit asl20 ];
    mainProgram = "nixfleet";
    platforms = if agentOnly then lib.platforms.linux else lib.platforms.unix;
    # On a machine that has both, `nixfleet` is the whole of it.
    priority = if agentOnly then 10 else 5;
  };
}
