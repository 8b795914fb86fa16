"""The story of a stack on Modal, told to the emulated control plane."""

from tests.modal.emulated import Emulated
from tests.modal.project import Project


def test_the_story(project: Project, cloud: Emulated) -> None:
    import time

    def step(name, *words, code=0, change=None):
        if change:
            project.change(*change)
        cloud.forget()
        t = time.time()
        done = project.run(*words)
        print("=====", name, words, f"{time.time() - t:.1f}s code", done.code)
        print("\n".join(l[:160] for l in done.out.splitlines()))
        print(done.err[-3000:])
        print(
            "CALLS",
            {k: v for k, v in sorted(cloud.calls().items())},
            [
                (a["name"], a["state"], a["version"], a["containers"])
                for a in cloud.seen()["apps"]
            ],
        )
        return done

    y = "stacks/tiny.yaml"
    step("first", "apply", y, "--yes")
    step("again", "apply", y, "--yes")
    step(
        "gate",
        "apply",
        y,
        "--yes",
        change=("  chat: {}\n", "  chat: {}\n  stream: {}\n"),
    )
    step(
        "scaling",
        "apply",
        y,
        "--yes",
        change=("max_containers: 2", "max_containers: 3"),
    )
    step("options", "apply", y, "--yes", change=("ctx_size: 1024", "ctx_size: 2048"))
    step(
        "prime+restore",
        "apply",
        y,
        "--yes",
        change=("gates:\n", "gates:\n  restore: {within: 15s, idle: 1s}\n"),
    )
    step("prime+restore2", "apply", y, "--yes", change=("parallel: 2", "parallel: 1"))
    step("status", "status", y)
    step("history", "history", y)
    step("logs", "logs", y, "-n", "5")
    step("rollback", "rollback", y, "1", "--yes")
    step("refresh", "plan", y, "--refresh")
    step("stop", "stop", y)
    step("refresh", "plan", y, "--refresh")
    step("start", "start", y)
    step("metrics", "metrics", y)
    step("destroy", "destroy", y, "--yes")
