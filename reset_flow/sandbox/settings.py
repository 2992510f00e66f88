"""Settings for everything that the broker's documents leave open."""

from datetime import timedelta

import attrs


@attrs.define(kw_only=True)
class Settings:
    """
    Behaviour that the documents leave open, and the configuration of the broker. May be changed while it serves.

    Attributes:
        app_key: Required value of ``Et-App-Key``.

        app_key_status: HTTP status of the answer to a wrong or missing key.

        refusal_status: HTTP status of every refusal at steps 1 to 4 and of a PIN change.

        refusal_code: ``StatusCode`` in the envelope of a refusal: a number, or a name such as ``"Conflict"``.

        errors_code: Whether the envelope of a refusal has ``ErrorsCode``. A wrong answer always gives it.

        log_in_refusal_status: HTTP status of ``Invalid credentials``.

        request_is_succeed: ``IsSucceed`` of an accepted step 1; the documents' sample says false.

        unknown_user_refused: Whether steps 1 and 2 refuse an unknown user; otherwise step 1 is accepted without an
            e-mail, and step 2 gives an empty question.

        email_as_user: Whether step 1 and the log-in accept an e-mail address as a login, as step 2 does.

        question_endpoint: Whether step 2 exists.

        question_endpoint_status: HTTP status of step 2 if it does not exist.

        new_code_kills_old: Whether a new code makes the user's older code invalid.

        code_lifetime: How long a code is valid.

        token_lifetime: How long a token is valid.

        session_lifetime: How long the token of a log-in is valid for ``Authorization: Bearer``.

        minimum_password_length: A shorter password is refused as too weak.

        pin_verbs: The verbs that ``pincode/change`` accepts.

        bearer_checked: Whether ``pincode/change`` requires the token of a log-in by the same user.
    """

    app_key: str = "sandbox"
    app_key_status: int = 401
    refusal_status: int = 409
    refusal_code: int | str = 409
    errors_code: bool = False
    log_in_refusal_status: int = 401
    request_is_succeed: bool = False
    unknown_user_refused: bool = True
    email_as_user: bool = True
    question_endpoint: bool = True
    question_endpoint_status: int = 404
    new_code_kills_old: bool = True
    code_lifetime: timedelta = timedelta(minutes=10)
    token_lifetime: timedelta = timedelta(minutes=10)
    session_lifetime: timedelta = timedelta(hours=1)
    minimum_password_length: int = 8
    pin_verbs: tuple[str, ...] = ("POST",)
    bearer_checked: bool = True
