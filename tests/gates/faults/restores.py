"""No server passes that came back cold, as another one, or too late."""

from tests.gates import fake_http as http
from tests.gates.breaking import CHAT, ERROR, FAIL, answers, model
from tests.gates.checking import check, coming_back
from tests.gates.fake_http import Script
from tests.gates.fake_model import Said
from tests.gates.fake_server import fake_server
from tests.gates.registry import broken

SOUND = Script()
OTHER = model(lambda _body: Said(content="I am another."))


@broken("restore")
def a_cold_start_is_no_restore() -> None:
    with fake_server(SOUND) as server:
        back = coming_back(server.url, really=False)
        because = "it was no restore: the image was damaged"
        check("restore", SOUND, FAIL, because, bring_back=back)


@broken("restore")
def a_server_that_answers_otherwise_is_another_one() -> None:
    with fake_server(OTHER) as server:
        because = "once restored it answers otherwise: `"
        back = coming_back(server.url)
        verdict = check("restore", SOUND, FAIL, because, bring_back=back)
    assert "became `I am another.`" in verdict.because


@broken("restore")
def a_server_that_does_not_come_back_is_not_measured() -> None:
    with fake_server(SOUND) as server:
        gone = server.url
    because = "once restored it does not answer: nothing answers at"
    check("restore", SOUND, ERROR, because, bring_back=coming_back(gone))


@broken("restore")
def a_restore_beyond_its_limit_fails() -> None:
    check("restore", SOUND, FAIL, "more than the 200 ms of `within`", within="0.2s")


@broken("restore")
def a_server_that_is_restored_with_errors_fails() -> None:
    with fake_server(answers(CHAT, http.error(500, "oops"))) as server:
        back = coming_back(server.url)
        check("restore", SOUND, FAIL, "answered HTTP 500: oops", bring_back=back)
