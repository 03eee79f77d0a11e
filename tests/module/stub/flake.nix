{
  description = "A stand-in for nixpkgs: the library functions and package builders that nixfleet's flake uses";
  outputs = { self }: {
    lib = import ./lib.nix;
    legacyPackages = (import ./lib.nix).genAttrs [ "x86_64-linux" "aarch64-linux" "x86_64-darwin" "aarch64-darwin" ] (system: import ./pkgs.nix system);
  };
}
