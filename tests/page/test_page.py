"""The page in a real browser, its microphone playing a file, against a gateway that follows a script."""

import asyncio
import itertools
import json
from pathlib import Path
from typing import Literal

import pytest
from playwright.async_api import Page, expect

from .browser import DESKTOP, PHONE, finals, open_page, recorded_seconds
from .scripted_gateway import BYTES_PER_SECOND, Script, Utterance, serve
from .steps import STEP_S, heard_steps, write_steps

pytestmark = pytest.mark.browser

HELLO = Utterance(("hello", "wide", "world"), start=0.5, confidences=(0.95, 0.6, 0.2))
AGAIN = Utterance(("and", "again"), start=2.0)
GROWTH = ("hello", "hello wide", "hello wide world", "and", "and again")
"""The partials of both."""


@pytest.fixture(scope="session")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_steps(tmp_path_factory.mktemp("microphone") / "steps.wav", steps=40)


async def _record(page: Page, seconds: float) -> None:
    await page.click("#record")
    await _recorded(page, seconds)


async def _recorded(page: Page, seconds: float) -> None:
    await page.wait_for_function(
        "limit => document.getElementById('recorded').textContent.split(':').at(-1) >= limit",
        arg=f"{seconds:04.1f}",
    )


async def _stop(page: Page) -> None:
    await page.click("#record")
    await expect(page.locator("body")).to_have_attribute("data-phase", "idle")


def _assert_every_step_heard_once(pcm: bytes) -> None:
    runs = heard_steps(pcm)
    steps = [step for step, _ in runs]
    assert steps == list(range(steps[0], steps[0] + len(steps)))
    assert all(abs(length - STEP_S) < 0.15 for _, length in runs[1:-1]), runs


async def test_a_partial_changes_and_its_final_stays_with_time_and_confidence(wav: Path) -> None:
    problems: list[str] = []
    async with (
        serve(Script(utterances=(HELLO, AGAIN))) as (_, url),
        open_page(url, wav, problems=problems) as page,
    ):
        await page.evaluate(
            """() => {
              window.seen = [];
              const partial = document.getElementById("partial-text");
              new MutationObserver(() => window.seen.push(partial.textContent))
                .observe(partial, { childList: true, characterData: true, subtree: true });
            }"""
        )
        await _record(page, 2.5)
        await expect(page.locator("#finals .said").first).to_have_text("hello wide world")
        await _recorded(page, 3.2)
        await _stop(page)
        assert await finals(page) == ["hello wide world", "and again"]
        seen = [text for text in await page.evaluate("window.seen") if text]
        grew = [GROWTH.index(text) for text in seen]  # on a busy machine, not by every word
        assert grew == sorted(grew)
        assert len(set(grew)) >= 3
        assert await page.locator("#finals time").all_inner_texts() == ["0:00.5", "0:02.0"]
        words = page.locator("#finals .word")
        bands = [await words.nth(n).get_attribute("data-confidence") for n in range(5)]
        assert bands == ["high", "medium", "low", None, None]
        await expect(page.locator("#legend")).to_be_visible()
        await expect(page.locator("#partial")).to_be_hidden()
        await expect(page.locator("#latency-partial")).to_contain_text("ms")
        await expect(page.locator("#latency-final")).to_contain_text("ms")
    assert problems == []


async def test_markup_in_a_transcript_is_shown_as_text(wav: Path) -> None:
    problems: list[str] = []
    markup = ("<img", "src=x", "onerror=alert(1)><script>alert(2)</script>")
    partial = "<img src=x onerror=alert(4)>"
    utterances = (Utterance(markup, 0.2, 0.1), Utterance((partial, *["and on"] * 500), 1.0, 0.4))
    async with (
        serve(Script(utterances=utterances, model="<b>model", notice="<img src=x onerror=alert(3)>")) as (
            _,
            url,
        ),
        open_page(url, wav, problems=problems) as page,
    ):
        await _record(page, 2.0)
        await expect(page.locator("#partial-text")).to_contain_text(partial)
        assert await finals(page) == [" ".join(markup)]
        await expect(page.locator("#notice-text")).to_have_text("<img src=x onerror=alert(3)>")
        assert await page.locator("main img, main script, main b, header b").count() == 0
        await _stop(page)
    assert problems == []


async def test_every_recorded_sample_reaches_the_server_once(wav: Path) -> None:
    async with serve(Script()) as (gateway, url), open_page(url, wav) as page:
        await _record(page, 4.0)
        await _stop(page)
        recorded = await recorded_seconds(page)
        [stream] = gateway.streams
        assert abs(stream.position - recorded) <= 0.051  # the clock shows tenths
        assert stream.stopped
        _assert_every_step_heard_once(bytes(stream.audio))
        start = gateway.openings[0]["config"]
        assert (start["sample_rate"], start["encoding"], start["words"]) == (16000, "pcm16", True)


async def test_what_is_said_before_the_socket_opens_is_kept(wav: Path) -> None:
    script = Script(utterances=(HELLO,), accept=asyncio.Event())
    async with serve(script) as (gateway, url), open_page(url, wav) as page:
        await _record(page, 2.0)
        assert gateway.streams == []
        await expect(page.locator("#status")).to_contain_text("connecting")
        assert script.accept is not None
        script.accept.set()
        await expect(page.locator("#finals .said")).to_have_text("hello wide world")
        await _stop(page)
        [stream] = gateway.streams
        assert abs(stream.position - await recorded_seconds(page)) <= 0.051
        first_step, _ = heard_steps(bytes(stream.audio))[0]
        assert first_step < 2.0 / STEP_S, "from before the socket opened"
        _assert_every_step_heard_once(bytes(stream.audio))


async def test_a_dropped_connection_is_resumed_and_loses_no_audio(wav: Path) -> None:
    script = Script(utterances=(HELLO, AGAIN), drop_at=[1.5, 3.5])
    async with serve(script) as (gateway, url), open_page(url, wav) as page:
        await _record(page, 5.0)
        await _stop(page)
        assert [opening["type"] for opening in gateway.openings] == ["start", "resume", "resume"]
        assert await finals(page) == ["hello wide world", "and again"]
        [stream] = gateway.streams
        assert abs(stream.position - await recorded_seconds(page)) <= 0.051
        _assert_every_step_heard_once(bytes(stream.audio))


async def test_without_resume_a_new_stream_goes_on_after_the_last_final(wav: Path) -> None:
    late = Utterance(("later",), start=1.5)
    script = Script(utterances=(HELLO, late), drop_at=[2.0], resumable=False)
    async with serve(script) as (gateway, url), open_page(url, wav) as page:
        await _record(page, 4.5)
        await _stop(page)
        first, second = gateway.streams
        assert abs(first.position - 2.0) <= 0.11
        begun = HELLO.end
        assert abs(begun + second.position - await recorded_seconds(page)) <= 0.051
        _assert_every_step_heard_once(bytes(second.audio))
        times = await page.locator("#finals time").all_inner_texts()
        assert times == ["0:00.5", "0:01.9", "0:02.9"]  # its own 0.5 and 1.5, on the page's clock


async def test_the_transcript_is_copied_and_downloaded(wav: Path, tmp_path: Path) -> None:
    async with (
        serve(Script(utterances=(HELLO, AGAIN))) as (_, url),
        open_page(url, wav) as page,
    ):
        await expect(page.locator("#copy")).to_be_disabled()
        await _record(page, 3.2)
        await _stop(page)
        await page.click("#copy")
        await expect(page.locator("#status")).to_have_text("Copied")
        assert await page.evaluate("navigator.clipboard.readText()") == "hello wide world\nand again\n"
        files = {}
        for kind in ("txt", "srt", "json"):
            async with page.expect_download() as download:
                await page.click(f'[data-format="{kind}"]')
            saved = await download.value
            assert saved.suggested_filename == f"transcript.{kind}"
            await saved.save_as(tmp_path / kind)
            files[kind] = (tmp_path / kind).read_text()
        assert files["txt"] == "hello wide world\nand again\n"
        assert files["srt"].startswith("1\n00:00:00,500 --> 00:00:01,400\nhello wide world\n\n2\n")
        exported = json.loads(files["json"])
        assert exported["text"] == "hello wide world and again"
        assert exported["segments"][0]["words"][2] == {
            "word": "world",
            "start": 1.1,
            "end": 1.4,
            "confidence": 0.2,
        }


async def test_a_second_recording_goes_on_where_the_first_ended_and_clear_begins_anew(wav: Path) -> None:
    async with serve(Script(utterances=(HELLO,))) as (_, url), open_page(url, wav) as page:
        await _record(page, 1.8)
        await _stop(page)
        first = await recorded_seconds(page)
        await _record(page, first + 1.8)
        await _stop(page)
        second = await page.locator("#finals time").nth(1).inner_text()
        assert abs(float(second.split(":")[1]) - (first + HELLO.start)) <= 0.11
        await page.click("#clear")
        assert await finals(page) == []
        await expect(page.locator("#empty")).to_be_visible()
        await expect(page.locator("#recorded")).to_have_text("0:00.0")
        await expect(page.locator("#copy")).to_be_disabled()


async def test_a_missing_key_is_asked_for_and_the_recording_is_kept(wav: Path) -> None:
    script = Script(utterances=(HELLO,), key="s3cret")
    async with serve(script) as (gateway, url), open_page(url, wav) as page:
        await expect(page.locator("#key-form")).to_be_visible()
        await _record(page, 1.0)
        await expect(page.locator("#trouble")).to_contain_text("needs an API key")
        await page.fill("#key", "wrong")
        await page.press("#key", "Enter")
        await expect(page.locator("#trouble")).to_contain_text("This key is not known.")
        await page.fill("#key", "s3cret")
        await page.press("#key", "Enter")
        await expect(page.locator("#finals .said")).to_have_text("hello wide world")
        await expect(page.locator("#key-form")).to_be_hidden()
        await expect(page.locator("#trouble")).to_be_hidden()
        await _stop(page)
        first_step, _ = heard_steps(bytes(gateway.streams[0].audio))[0]
        assert first_step < 1.0 / STEP_S, "from before the key was there"
        assert await page.evaluate("Object.values(localStorage).includes('s3cret')") is False
        assert await page.evaluate("sessionStorage.getItem('perch.key')") == "s3cret"
        assert "perch-key.s3cret" in gateway.protocols[-1]


async def test_an_error_ends_the_recording_with_the_servers_message_and_what_to_do(wav: Path) -> None:
    error = {"code": "language_unsupported", "message": "en-XX is not served here.", "retryable": False}
    async with serve(Script(error=error)) as (_, url), open_page(url, wav) as page:
        await page.click("#record")
        await expect(page.locator("#trouble-message")).to_have_text("en-XX is not served here.")
        await expect(page.locator("#trouble-advice")).to_contain_text("Choose another")
        await expect(page.locator("#trouble-code")).to_have_text("language_unsupported")
        await expect(page.locator("body")).to_have_attribute("data-phase", "idle")
        await page.click("#trouble-close")
        await expect(page.locator("#trouble")).to_be_hidden()


async def test_a_server_that_is_gone_is_told_and_shown(wav: Path) -> None:
    async with serve(Script()) as (_, url), open_page(url, wav) as page:
        await expect(page.locator("#backend")).to_have_attribute("data-state", "ready")
        await page.route("**/ready", lambda route: route.abort())
        await page.route("**/transcriptions/stream", lambda route: route.abort())
        await page.route_web_socket("**/transcriptions/stream", lambda socket: socket.close())
        await page.click("#record")
        await expect(page.locator("#status")).to_contain_text("reconnecting")
        await expect(page.locator("#trouble")).to_contain_text("The server cannot be reached.")
        await expect(page.locator("#backend")).to_have_attribute("data-state", "offline")
        await page.unroute("**/ready")
        await expect(page.locator("#backend")).to_have_attribute("data-state", "ready")


async def test_the_demonstration_is_named_in_words_and_commands_are_for_the_operator(wav: Path) -> None:
    notice = "Demonstration recogniser. `./run models pull parakeet`"
    async with (
        serve(Script(model="embedded-en-us", notice=notice)) as (_, url),
        open_page(url, wav) as page,
    ):
        shown = page.locator("#notice")
        await expect(shown).to_contain_text("For real work the operator can install a Parakeet model.")
        await expect(page.locator("#notice-details")).to_be_hidden()
        await page.click("#notice summary")
        await expect(page.locator("#notice-details")).to_have_text(notice)
        await _record(page, 0.5)
        await expect(shown).to_contain_text("the operator can install")
        await _stop(page)


WATCH_PASSING = """() => {
  window.shown = [""];
  const line = document.getElementById("passing");
  new MutationObserver(() => window.shown.push(line.hidden ? "" : line.textContent))
    .observe(line, {attributes: true, childList: true, characterData: true, subtree: true});
}"""
"""Notes what is shown for a moment only, which looking from time to time would miss."""


async def test_a_notice_of_the_moment_ends_with_it_and_hides_no_other(wav: Path) -> None:
    lost = "3.0 s of audio from 2.0 s on could not be recognised."
    script = Script(
        notice="Read this first.",
        notices=[
            (0.4, "audio_lost", lost),
            (0.5, "lagging", "Recognition is 5.1 s behind the audio."),
            (1.5, "engine_failover", "The speech engine failed; looking for one that works."),
            (2.5, "engine_recovered", "Recognition goes on."),
            (3.0, "lagging", "Recognition is 6.2 s behind the audio."),
        ],
    )
    passing = "#passing"
    async with serve(script) as (_, url), open_page(url, wav) as page:
        await page.evaluate(WATCH_PASSING)
        await page.click("#record")
        await expect(page.locator(passing)).to_contain_text("6.2 s behind")
        shown = await page.evaluate("window.shown")
        assert [text for text, _ in itertools.groupby(shown)] == [
            "",
            "Recognition is 5.1 s behind the audio.",
            "The speech engine failed; looking for one that works.",
            "",
            "Recognition is 6.2 s behind the audio.",
        ]
        await expect(page.locator("#loss")).to_have_text(lost)
        await _stop(page)
        await expect(page.locator(passing)).to_be_hidden()
        await expect(page.locator("#loss")).to_have_text(lost)
        await expect(page.locator("#notice-text")).to_have_text("Read this first.")
        await _record(page, await recorded_seconds(page) + 0.5)
        await expect(page.locator("#loss")).to_be_hidden()
        await _stop(page)


async def test_on_a_phone_no_status_is_cut(wav: Path) -> None:
    async with serve(Script()) as (_, url), open_page(url, wav, size=PHONE) as page:
        await _record(page, 0.5)
        await _stop(page)
        await expect(page.locator("#status")).to_have_text("Done. Press Record to go on")
        fits = "of => of.scrollWidth <= of.clientWidth && of.scrollHeight <= of.clientHeight"
        assert await page.locator("#status").evaluate(fits)
        of_a_file = "Transcribing minutes-of-our-meeting.wav"
        await page.locator("#status").evaluate("(of, text) => { of.textContent = text; }", of_a_file)
        assert await page.locator("#status").evaluate(fits)


async def test_the_recogniser_is_named_and_a_mock_is_told_loudly(wav: Path) -> None:
    script = Script(backend="mock", model="script", notice="Nothing here is real.")
    async with serve(script) as (_, url), open_page(url, wav) as page:
        await expect(page.locator("#backend")).to_contain_text("Mock recogniser")
        await expect(page.locator("#backend")).to_contain_text("script")
        await expect(page.locator("#mock")).to_contain_text(
            "Not real speech recognition. Nothing here is real."
        )
        await expect(page.locator("#notice")).to_be_hidden()


async def test_the_models_languages_are_offered_and_the_chosen_one_is_asked_for(wav: Path) -> None:
    async with serve(Script()) as (gateway, url), open_page(url, wav) as page:
        options = page.locator("#language option")
        await expect(options).to_have_text(["Recogniser’s default", "British English", "Dutch (Netherlands)"])
        await page.select_option("#language", "nl-NL")
        await _record(page, 0.5)
        await _stop(page)
        assert gateway.openings[0]["config"]["language"] == "nl-NL"


async def test_the_keyboard_starts_and_stops_but_leaves_typing_alone(wav: Path) -> None:
    async with serve(Script()) as (gateway, url), open_page(url, wav) as page:
        await page.keyboard.press("Space")
        await _recorded(page, 0.5)
        await page.keyboard.press("Alt+r")
        await expect(page.locator("body")).to_have_attribute("data-phase", "idle")
        await page.focus("#clean")
        await page.keyboard.press("Space")
        assert await page.is_checked("#clean")
        assert len(gateway.streams) == 1


async def test_microphones_are_offered_by_name_once_allowed(wav: Path) -> None:
    async with serve(Script()) as (_, url), open_page(url, wav) as page:
        await _record(page, 0.5)
        await _stop(page)
        names = await page.locator("#device option").all_inner_texts()
        assert names[0] == "System default"
        assert len(names) > 1
        await page.select_option("#device", index=1)
        await _record(page, 1.0)
        await _stop(page)


async def test_a_refused_microphone_is_explained_and_can_be_tried_again(wav: Path) -> None:
    async with serve(Script()) as (gateway, url), open_page(url, wav) as page:
        await page.evaluate(
            """() => {
              const devices = navigator.mediaDevices;
              const real = devices.getUserMedia.bind(devices);
              devices.getUserMedia = async () => {
                devices.getUserMedia = real;
                throw new DOMException("no", "NotAllowedError");
              };
            }"""
        )
        await page.click("#record")
        await expect(page.locator("#trouble")).to_contain_text("The microphone is not allowed.")
        await expect(page.locator("body")).to_have_attribute("data-phase", "idle")
        await _record(page, 0.5)
        await expect(page.locator("#trouble")).to_be_hidden()
        await _stop(page)
        assert gateway.streams[-1].position > 0.4


async def test_a_file_is_transcribed_in_place_of_the_microphone(wav: Path, tmp_path: Path) -> None:
    short = write_steps(tmp_path / "three.wav", steps=6, rate=44_100)
    async with serve(Script(utterances=(HELLO,))) as (gateway, url), open_page(url, wav) as page:
        await page.set_input_files("#file", short)
        await expect(page.locator("#finals .said")).to_have_text("hello wide world")
        await expect(page.locator("body")).to_have_attribute("data-phase", "idle")
        assert abs(gateway.streams[0].position - 3.0) < 0.01
        _assert_every_step_heard_once(bytes(gateway.streams[0].audio))


async def test_a_file_without_audio_is_refused_in_words(wav: Path) -> None:
    async with serve(Script()) as (_, url), open_page(url, wav) as page:
        await page.set_input_files("#file", __file__)
        await expect(page.locator("#trouble-code")).to_have_text("file_unreadable")
        await expect(page.locator("body")).to_have_attribute("data-phase", "idle")


async def test_finals_are_announced_and_partials_are_not(wav: Path) -> None:
    endless = Utterance(("more",) * 500, start=2.0)
    async with serve(Script(utterances=(HELLO, endless))) as (_, url), open_page(url, wav) as page:
        await _record(page, 2.5)
        await expect(page.locator("#partial-text")).to_contain_text("more more")
        await expect(page.locator("#announcer")).to_have_text("hello wide world")
        assert await page.get_attribute("#announcer", "aria-live") == "polite"
        assert await page.locator("#partial, #partial *").evaluate_all(
            "elements => elements.every(element => !element.closest('[aria-live], [role=status], [role=log]'))"
        )
        await _stop(page)


_CONTRASTS = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest(":disabled, noscript, option")) continue;
    const [a, b] = [luminance(parse(getComputedStyle(element).color)), luminance(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${element.tagName} ${element.className} ${element.textContent.trim()} ${ratio}`);
  }
  return poor;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_all_text_has_enough_contrast(wav: Path, theme: Literal["light", "dark"]) -> None:
    script = Script(utterances=(HELLO, AGAIN), backend="mock", notice="A notice.")
    async with serve(script) as (_, url), open_page(url, wav, theme=theme) as page:
        assert await page.evaluate(_CONTRASTS) == []
        await _record(page, 2.8)
        await page.evaluate(
            "for (const id of ['trouble', 'key-form']) document.getElementById(id).hidden = false"
        )
        assert await page.evaluate(_CONTRASTS) == []
        await _stop(page)


async def test_every_control_has_a_name_and_is_reached_by_tab(wav: Path) -> None:
    async with serve(Script()) as (_, url), open_page(url, wav) as page:
        snapshot = await page.locator("body").aria_snapshot()
        unnamed = [
            line for line in snapshot.splitlines() if line.strip() in {"- button", "- combobox", "- checkbox"}
        ]
        assert unnamed == []
        reached = set()
        for _ in range(15):
            await page.keyboard.press("Tab")
            reached.add(await page.evaluate("document.activeElement.id"))
        assert {"theme", "device", "language", "clean", "record", "choose-file"} <= reached


async def test_live_words_are_promised_unless_there_are_finals_only(wav: Path) -> None:
    script = Script(partials=False)
    async with serve(script) as (_, url), open_page(url, wav) as page:
        await expect(page.locator("#empty")).to_contain_text("speak. Words appear when you pause.")
        await expect(page.get_by_text("Words as you speak")).to_be_hidden()
        await expect(page.get_by_text("Settled text")).to_be_visible()
        script.partials = True  # another model, as the session's ready event tells
        await _record(page, 0.2)
        await expect(page.get_by_text("Words as you speak")).to_be_visible()
        await _stop(page)
        await expect(page.locator("#empty")).to_contain_text("Words appear while you talk")


@pytest.mark.parametrize("size", [PHONE, DESKTOP])
async def test_which_model_recognises_is_told_on_every_screen(wav: Path, size: tuple[int, int]) -> None:
    script = Script(model="nemotron-speech-streaming-en-0.6b", mode="cache-aware")
    async with serve(script) as (_, url), open_page(url, wav, size=size) as page:
        model = page.locator("#backend-model")
        await expect(model).to_be_visible()
        await expect(model).to_have_text("nemotron-speech-streaming-en-0.6b · cache-aware")
        assert await model.evaluate(
            "({ scrollWidth, clientWidth, scrollHeight, clientHeight }) => "
            "scrollWidth <= clientWidth && scrollHeight <= clientHeight"
        )
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_the_theme_follows_the_system_until_the_user_chooses(wav: Path) -> None:
    async with serve(Script()) as (_, url), open_page(url, wav, theme="dark") as page:
        html = page.locator("html")
        await expect(html).to_have_attribute("data-theme", "dark")
        await page.click("#theme")
        await expect(html).to_have_attribute("data-theme", "light")
        await page.reload()
        await expect(html).to_have_attribute("data-theme", "light")


async def test_a_long_transcript_is_followed_on_a_phone_and_nothing_overflows(wav: Path) -> None:
    words = tuple(f"word{n}" for n in range(8))
    utterances = tuple(Utterance(words, 0.2 + 0.5 * n, 0.02) for n in range(10))
    async with (
        serve(Script(utterances=utterances)) as (gateway, url),
        open_page(url, wav, size=PHONE) as page,
    ):
        await _record(page, 5.5)
        dock = await page.locator("footer.dock").bounding_box()
        last = await page.locator("#finals .said").last.bounding_box()
        assert dock is not None
        assert last is not None
        assert last["y"] + last["height"] <= dock["y"]
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await page.evaluate("scrollTo(0, 0)")
        await expect(page.locator("#latest")).to_be_visible()
        await _stop(page)
        assert len(gateway.streams[0].audio) > 5 * BYTES_PER_SECOND
