"""What a change of each kind does on Modal, as one table."""

from deployer.llama.known.tables import prices
from deployer.planning.costs import costs_of
from deployer.planning.plan import Plan, make_plan
from deployer.planning.resources import Kind
from deployer.planning.state import State, record_of
from deployer.show.text import price, verb
from deployer.testing import stack as stack_of
from tests.engines.modal.changes import BEFORE, CHANGES, after
from tests.engines.modal.lowering import graph_of, rendered

# The driver's calls to Modal for the same changes are counted in tests/modal.
EXPECTED = """\
nothing                         -        -         -            -                nothing
another way to write a duration -        -         -            -                nothing
releases that are kept          -        -         -            note             nothing
cold starts that capture        -        -         -            note             nothing
a secret for the hub            -        note      -            -                nothing
a gate's limit                  -        -         -            re-validate      $0.47
a new gate                      -        -         -            re-validate      $0.49
most containers                 -        -         -            update in place  nothing
containers kept warm            -        -         -            update in place  nothing
the window of an idle container -        -         -            update in place  nothing
scaling and a gate              -        -         -            update in place  $0.31
requests at a time              -        -         re-snapshot  redeploy         $1.28
the region                      -        -         re-snapshot  redeploy         $1.28
the kind of endpoint            -        -         re-snapshot  redeploy         $1.28
memory of a container           -        -         re-snapshot  redeploy         $1.32
the secret of the key           -        -         re-snapshot  redeploy         $1.28
an option of llama-server       -        -         re-snapshot  redeploy         $1.28
the alias                       -        -         re-snapshot  redeploy         $1.28
a warm-up request               -        -         re-snapshot  redeploy         $1.28
the GPU, of one architecture    -        -         re-snapshot  redeploy         $0.64
the GPU, of another             rebuild  -         re-snapshot  redeploy         $2.46
snapshots turned off            -        -         remove       redeploy         $0.72
another quant                   -        re-fetch  re-snapshot  redeploy         $1.30
another build                   rebuild  -         re-snapshot  redeploy         $1.36
the CUDA toolkit                rebuild  -         re-snapshot  redeploy         $1.36
"""


def planned(text: str) -> Plan:
    live = {a: record_of(n, {}) for a, n in graph_of(stack_of(BEFORE)).items()}
    state = State("demo", "modal", lineage="f00d", serial=1, live=live)
    return make_plan(graph_of(stack_of(text)), state)


def row(name: str) -> str:
    plan = planned(after(name))
    verbs = []
    for kind in Kind:
        change = plan.change(kind)
        told = "-" if change is None else verb(change)
        verbs.append("-" if told == "unchanged" else told)
    paid = costs_of(plan, prices()).apply
    columns = (*verbs, price(paid) if paid else "nothing")
    widths = (32, 9, 10, 13, 17)
    cells = zip((name, *columns[:4]), widths, strict=True)
    return "".join(f"{cell:<{width}}" for cell, width in cells) + columns[4]


def test_what_each_change_does_and_costs() -> None:
    """build, weights, snapshot, server, and about what an apply costs."""
    assert "\n".join(row(name) for name in CHANGES) + "\n" == EXPECTED


def test_what_is_proven_changes_only_where_a_new_snapshot_is_planned() -> None:
    """So a change in place cannot make a snapshot useless by what it renders."""
    before = rendered(BEFORE)["candidate.py"]
    for name in CHANGES:
        plan = planned(after(name))
        snapshot, server = plan.change(Kind.SNAPSHOT), plan.change(Kind.SERVER)
        kept = snapshot is not None and verb(snapshot) in ("unchanged", "note")
        assert (rendered(after(name))["candidate.py"] == before) == kept, name
        assert server is not None
