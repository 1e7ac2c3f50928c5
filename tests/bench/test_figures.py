from bench.figures import Results, Round, figures, warnings
from bench.job import Outcome, StreamLog
from bench.memory import Growth, IdleMemory

SECONDS = 10.0


def outcome(gateway_s: float, *, streams: int = 100, messages: int = 5_000, others_s: float = 0.0) -> Outcome:
    cpu = {"generator": 1.0, "engine": 2.0, "gateway": gateway_s, "others": others_s}
    empty = [StreamLog([], []) for _ in range(streams)]
    return Outcome(empty, 0.0, SECONDS, streams * 100, messages, cpu, (0.1, 1.0), (0.1, 1.0), [])


def results(*gateway_s: float, streams: int = 100, others_s: float = 0.0) -> Results:
    rounds = [
        Round(
            outcome(0.0, streams=streams),
            outcome(seconds, streams=streams, others_s=others_s),
            outcome(seconds - 0.1, streams=streams, messages=1_000),
        )
        for seconds in gateway_s
    ]
    return Results(cpu=rounds)


def value(of: Results, key: str) -> float:
    return next(figure.value for figure in figures(of) if figure.key == key)


def test_cpu_time_is_told_per_stream_and_second() -> None:
    assert value(results(3.0), "gateway_cpu_ms") == 3.0
    assert value(results(3.0), "gateway_us_per_frame") == 300.0


def test_rounds_are_averaged_and_kept() -> None:
    figure = next(figure for figure in figures(results(2.0, 3.0)) if figure.key == "gateway_cpu_ms")
    assert figure.value == 2.5
    assert figure.spread == (2.0, 3.0)
    assert figure.ratio == 1.0


def test_what_partials_cost_is_what_leaving_them_out_saves() -> None:
    assert round(value(results(3.0), "gateway_us_per_event"), 6) == 25.0
    assert round(value(results(3.0), "gateway_us_per_upstream_frame"), 6) == 287.5


def test_few_streams_have_no_target() -> None:
    assert all(figure.target is None for figure in figures(results(3.0, streams=99)))


def test_memory_is_told_per_session() -> None:
    idle = IdleMemory(sessions=512, empty_mib=100.0, idle_mib=120.0, streaming_mib=150.0)
    assert idle.kib_per_idle_session == 40.0
    assert idle.kib_per_engine_stream == 100.0


def test_growth_is_told_per_hour_and_leaves_the_first_fifth_out() -> None:
    warm_up = [(0.0, 50.0), (10.0, 80.0)]
    steady = [(20.0 + 10 * step, 100.0 + step) for step in range(8)]
    growth = Growth(sessions=2, pace=10.0, series=warm_up + steady, audio_s=1_000.0, lagged=False)
    assert round(growth.mib_per_hour, 6) == 360.0
    assert round(growth.kib_per_audio_hour, 6) == 18_432.0


def test_a_quiet_run_is_not_doubted() -> None:
    assert warnings(results(2.0, 2.2)) == []


def test_rounds_that_disagree_are_doubted() -> None:
    assert any("gateway CPU, 100 streams" in doubt for doubt in warnings(results(1.0, 3.0)))


def test_other_work_on_the_machine_is_doubted() -> None:
    assert warnings(results(2.0, others_s=8.0)) == [
        "gateway, 100 streams: processes that are not of the benchmark used 0.8 cores"
    ]


def test_growth_behind_a_lagging_engine_is_doubted() -> None:
    growth = Growth(sessions=1, pace=50.0, series=[(0.0, 1.0), (10.0, 1.0)], audio_s=500.0, lagged=True)
    assert warnings(Results(growth=growth)) == ["recognition fell behind at pace 50: lower --pace"]
