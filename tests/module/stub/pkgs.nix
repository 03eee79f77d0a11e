# The few package functions that the flake calls, for one system.
system:
let
  lib = import ./lib.nix;
  fake = name: derivation { inherit name system; builder = "/bin/sh"; };
  pkgs = {
    inherit lib;
    callPackage = path: extra:
      let function = import path; wanted = builtins.intersectAttrs (builtins.functionArgs function) pkgs;
      in function (wanted // extra);
    writeText = name: text: derivation { inherit name system text; builder = "/bin/sh"; passAsFile = [ "text" ]; };
    formats.toml = _: { generate = name: value: { inherit name value; outPath = "/etc/static/${name}"; }; };
    python3Packages = {
      buildPythonApplication = args: fake "${args.pname}-${args.version}" // { inherit args; };
      sqlalchemy = fake "sqlalchemy" // { optional-dependencies.asyncio = [ (fake "greenlet") ]; };
    } // lib.genAttrs [
      "setuptools" "msgspec" "httpx" "pynacl" "platformdirs" "zstandard" "litestar" "uvicorn" "aiosqlite" "asyncpg"
      "alembic" "prometheus-client" "textual" "click"
    ] fake;
  };
in
pkgs
