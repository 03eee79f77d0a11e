"""A made-up fleet: real agents against a real coordinator, with only Nix, clock, network faults and people made up."""
