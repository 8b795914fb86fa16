"""Fakes that keep the contracts, and builders, for tests of and around deployer."""
