# nixfleet, whole (console, coordinator, command line, agent) or the agent alone (`agentOnly`).
{ lib, python3Packages, agentOnly ? false }:
python3Packages.buildPythonApplication {
  pname = if agentOnly then "nixfleet-agent" else "nixfleet";
  version = "0.1.0";
  pyproject = true;
  src = lib.cleanSource ../.;

  build-system = [ python3Packages.setuptools ];

  # What each program imports (pyproject.toml has the same list): the agent's closure stays small.
  dependencies = with python3Packages;
    [ msgspec httpx pynacl platformdirs ]
    ++ lib.optionals (!agentOnly) [ zstandard litestar uvicorn sqlalchemy aiosqlite asyncpg alembic prometheus-client textual click ];
  dontCheckRuntimeDeps = agentOnly;

  # The test suite needs root, namespaces and real services: it runs in CI, not in the build sandbox.
  doCheck = false;
  pythonImportsCheck = if agentOnly then [ "nixfleet.agent.main" ] else [ "nixfleet.cli.main" "nixfleet.agent.main" ];

  meta = {
    description = "Fleet management for NixOS devices that dial out";
    license = with lib.licenses; [ mit asl20 ];
    mainProgram = "nixfleet";
    platforms = lib.platforms.unix;
  };
}
