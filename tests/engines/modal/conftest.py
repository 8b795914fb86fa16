"""The web site on loopback that the tests of sources use."""

from tests.sources.conftest import make_site, site

__all__ = ["make_site", "site"]
