"""What a plan pays for: sources cost nothing until something is fetched."""

import subprocess
import sys


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, deployer.artefacts.store, deployer.artefacts.sources.hub;"
        "import deployer.artefacts.sources.transfer, "
        "deployer.artefacts.sources.pypi, deployer.artefacts.sources.paths;"
        "print(sorted({'huggingface_hub', 'httpx2', 'stamina', 'tqdm', 'pydantic', "
        "'filelock'} "
        "& set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
