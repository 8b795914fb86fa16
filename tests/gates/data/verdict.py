"""A command of a user: asks the server for its health, and prints a verdict."""

import json
import os
import urllib.request

with urllib.request.urlopen(f"{os.environ['DEPLOYER_URL']}/health") as answer:  # noqa: S310 - http, to a server of a test
    status = json.load(answer)["status"]
print(  # noqa: T201 - what a command has to do
    json.dumps(
        {
            "outcome": "pass" if status == "ok" else "fail",
            "because": f"{os.environ['DEPLOYER_GATE']} saw that it is {status}",
            "figures": {"key_length": len(os.environ["DEPLOYER_API_KEY"])},
        }
    )
)
