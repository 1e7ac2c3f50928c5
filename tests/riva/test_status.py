"""gRPC statuses and the errors they mean, both ways."""

import grpc
import pytest

from perch import errors
from perch.riva.status import Status, error_from_status, status_from_error, unavailable_model

START_FLAG = (
    "inference request for sequence 3 to model 'parakeet' must specify the START flag on the first request "
    "of the sequence"
)


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", errors.EngineUnavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", errors.EngineTimeout),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "", errors.EngineFull),
        (grpc.StatusCode.UNAUTHENTICATED, "", errors.EngineRefused),
        (grpc.StatusCode.PERMISSION_DENIED, "", errors.EngineRefused),
        (grpc.StatusCode.UNIMPLEMENTED, "", errors.EngineRefused),
        (grpc.StatusCode.NOT_FOUND, "Function not found", errors.ModelUnavailable),
        (grpc.StatusCode.INVALID_ARGUMENT, "sample rate", errors.BadConfig),
        (grpc.StatusCode.INVALID_ARGUMENT, START_FLAG, errors.EngineIdle),
        (
            grpc.StatusCode.INVALID_ARGUMENT,
            "Error: Unavailable model requested. Lang: ru-RU, Type: online",
            errors.ModelUnavailable,
        ),
        (grpc.StatusCode.INTERNAL, "RST_STREAM with error code 2", errors.EngineFailed),
        (grpc.StatusCode.UNKNOWN, "TRTIS response timeout", errors.EngineFailed),
        (grpc.StatusCode.CANCELLED, "", errors.EngineFailed),
    ],
)
def test_a_status_of_riva_means_one_error(
    code: grpc.StatusCode, details: str, expected: type[errors.PerchError]
) -> None:
    assert type(error_from_status(Status(code, details))) is expected


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE])
def test_what_an_engine_says_of_its_own_trouble_is_not_passed_on(code: grpc.StatusCode) -> None:
    assert "10.0.0.7" not in error_from_status(Status(code, "connect to 10.0.0.7 failed")).message


def test_what_an_engine_says_of_a_configuration_is_passed_on() -> None:
    error = error_from_status(Status(grpc.StatusCode.INVALID_ARGUMENT, "sample rate 4000 is too low"))
    assert error.message == "sample rate 4000 is too low"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.EngineFull("x"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.EngineFailed("x"), grpc.StatusCode.UNAVAILABLE),
        (errors.EngineUnavailable("x"), grpc.StatusCode.UNAVAILABLE),
        (errors.EngineTimeout("x"), grpc.StatusCode.DEADLINE_EXCEEDED),
        (errors.GoingAway("x"), grpc.StatusCode.UNAVAILABLE),
        (errors.Unauthorized("x"), grpc.StatusCode.UNAUTHENTICATED),
        (errors.BadAudio("x"), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.BadConfig("x"), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.ModelUnavailable("x"), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.InternalError("x"), grpc.StatusCode.INTERNAL),
    ],
)
def test_an_error_of_the_engine_has_one_status(error: errors.PerchError, code: grpc.StatusCode) -> None:
    assert status_from_error(error) == Status(code, "x")


@pytest.mark.parametrize(
    "error",
    [
        errors.EngineFull("x"),
        errors.EngineFailed("x"),
        errors.EngineUnavailable("x"),
        errors.EngineTimeout("x"),
        errors.GoingAway("x"),
        errors.BadAudio("x"),
        errors.BadConfig("x"),
    ],
)
def test_trying_again_makes_sense_on_one_side_exactly_if_it_does_on_the_other(
    error: errors.PerchError,
) -> None:
    assert error_from_status(status_from_error(error)).retryable is error.retryable


def test_an_unavailable_model_is_reported_in_rivas_words_and_understood_as_such() -> None:
    error = unavailable_model(language="ru-RU", sample_rate=16000, kind="online")
    assert error.message == (
        "Error: Unavailable model requested given these parameters: "
        "language_code=ru-RU; sample_rate=16000; type=online; "
    )
    assert isinstance(error_from_status(status_from_error(error)), errors.ModelUnavailable)
