"""The story of a stack on Modal, told to the emulated control plane."""

from tests.modal.project import Project


def test_an_apply_ends_in_a_server_that_answers(project: Project) -> None:
    done = project.apply()
    print(done.out)
    url = project.live()["outputs"]["url"]
    answer = project.ask(url)
    assert answer["choices"][0]["finish_reason"] == "length"
