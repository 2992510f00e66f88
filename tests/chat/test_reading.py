"""What people type is read as they mean it, and where that is unsure, they are asked."""

from __future__ import annotations

from collections import Counter

import pytest

from reset_flow.chat.reading import Reader, Word
from reset_flow.chat.sayings import BUTTONS, sent_by
from reset_flow.domain.capabilities import CodeFormat
from reset_flow.messages import LOCALES, Texts

TEXTS = Texts()
DIGITS = Reader(TEXTS, CodeFormat.digits(6))
LETTERS = Reader(TEXTS, CodeFormat.letters(8))
TOKENS = Reader(TEXTS, CodeFormat.token())
KEY = "Zm9v-YmFy_1234:abcd5678"

MAILS = {
    "English": """From: Accounts <no-reply@example.com>
Date: Mon, 30 Nov 2026 07:05:12 +0100
Subject: Your confirmation code

Hello Robert,

your confirmation code is {code}. It is valid until 07:15 on 2026-11-30.
Questions? Call +49 30 123456-0 or (030) 901820, 8 to 18 h, or see https://example.com/help?case=482913.
12345 Berlin, Germany""",
    "German": """Von: Konten <no-reply@example.com>
Datum: 30.11.2026 um 07:05:12

Guten Tag,
Ihr Code lautet {code} (gültig bis 07:15 Uhr, 10 Minuten).
Telefon: +49 (0)30 123456, Mo.–Fr. 8–18 Uhr, 10115 Berlin
Rechnung 2026/11/0042, 12,50 €""",
    "Spanish": """De: Cuentas <no-reply@example.com>
Fecha: 30/11/2026 07:05

Su código: {code}
Caduca a las 07:15. Teléfono: +34 912345678. 28013 Madrid. Total: 1.234,56 €""",
}


@pytest.mark.parametrize(
    "text",
    [
        "741175",
        "741 175",
        "741-175",
        "7 4 1 1 7 5",
        "74 11 75",
        "code: 741175.",
        "Code: 741 175.",
        "741175!",
        "741175?",
        "(741175)",
        "<741175>",
        "*741175*",
        "#741175",
        "G-741175",
        "  741175\n",
        "741175 please",
        "741175 741175",
        "741175, sent at 07:15",
        "741175 of 30.11.2026",
        "It is 741175, in 10 minutes it is gone",
        "７４１１７５",
        "７４１　１７５",
        "٧٤١١٧٥",
        "٧٤١ ١٧٥",
        "۷۴۱۱۷۵",
        "७४११७५",
        "741\N{NO-BREAK SPACE}175",
        "741\N{NARROW NO-BREAK SPACE}175",
        "741\N{EN DASH}175",
        "741\N{NON-BREAKING HYPHEN}175",
        "741\N{MINUS SIGN}175",
        "741\N{ZERO WIDTH SPACE}175",
        "\N{ZERO WIDTH NO-BREAK SPACE}741175",
        "\N{LEFT-TO-RIGHT ISOLATE}741175\N{POP DIRECTIONAL ISOLATE}",
        "هو ٧٤١١٧٥",
        "741\N{SOFT HYPHEN}175",
        "**741175** 😀",
        "+49 30 123456-0 called me: 741175",
        "741175 https://example.com/482913/?c=482913",
        "741175\nQuestions? Call 0800 123456",
        *(mail.format(code=code) for mail in MAILS.values() for code in ("741175", "741 175", "741-175")),
    ],
)
def test_a_code_of_six_digits_is_read_in_any_dress(text: str) -> None:
    assert DIGITS.codes(text) == ("741175",)


@pytest.mark.parametrize("text", ["004158", "00 41 58", "٠٠٤١٥٨"])
def test_a_code_may_begin_with_zeros(text: str) -> None:
    assert DIGITS.codes(text) == ("004158",)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("741175 or 741176", ("741175", "741176")),
        ("is it 741 175 or 741-176?", ("741175", "741176")),
        ("741175\n482913\n741175", ("741175", "482913")),
        ("٧٤١١٧٥ 482913", ("741175", "482913")),
    ],
)
def test_of_several_codes_all_are_found(text: str, found: tuple[str, ...]) -> None:
    assert DIGITS.codes(text) == found


@pytest.mark.parametrize(
    ("text", "was_meant"),
    [
        ("74117", True),
        ("7411755", True),
        ("741175741175", True),
        ("741.175", True),
        ("74117s", True),
        ("my code is 74117", True),
        ("", False),
        ("no code came", False),
        ("what is my balance?", False),
        ("it is 5 o'clock and I have got no code from you", False),
        ("can I call 110?", False),
    ],
)
def test_what_is_no_code_is_not_taken_for_one_but_may_have_been_meant_as_one(text: str, was_meant: bool) -> None:  # noqa: FBT001
    assert DIGITS.codes(text) == ()
    assert DIGITS.attempts_code(text) is was_meant


@pytest.mark.parametrize(
    "text",
    [
        "+49 741175",
        "+49 30 123456",
        "(030) 901820",
        "call 0170 123456",
        "0800/123456",
        "030-901820",
        "07:05:12",
        "30.11.2026",
        "1.234,56",
        "https://a.b/741175",
    ],
)
def test_telephone_numbers_times_dates_amounts_and_addresses_are_no_codes(text: str) -> None:
    assert DIGITS.codes(text) == ()


@pytest.mark.parametrize(
    "text",
    [
        "QX7T93KM",
        "QX7T-93KM",
        "QX7T 93KM",
        "QX-7T-93-KM",
        "code: QX7T-93KM.",
        "ＱＸ７Ｔ９３ＫＭ",
        "QX7T\N{EN DASH}93KM",
        "QX7T\N{ZERO WIDTH SPACE}93KM",
        "It is QX7T-93KM, I think",
        "Please QX7T-93KM",
        *(mail.format(code=code) for mail in MAILS.values() for code in ("QX7T93KM", "QX7T-93KM")),
    ],
)
def test_a_code_of_letters_is_read_in_any_dress(text: str) -> None:
    assert LETTERS.codes(text) == ("QX7T93KM",)


@pytest.mark.parametrize("text", ["qx7t93km", "qx7t-93km", "it is qx7t-93km"])
def test_a_code_of_letters_may_be_typed_in_small_ones(text: str) -> None:
    assert LETTERS.codes(text) == ("qx7t93km",)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("QX7T-93KM or QX7T-93KN", ("QX7T93KM", "QX7T93KN")),
        ("what is my balance?", ()),
        ("I have got no message so far", ()),
        ("Tomorrow, please: thousands of words", ()),
        ("QX7T-93K", ()),
        ("QX7T-93KMM", ()),
        ("12345678 is no code, or is it", ()),
    ],
)
def test_of_words_none_is_taken_for_a_code_of_letters(text: str, found: tuple[str, ...]) -> None:
    assert LETTERS.codes(text) == found


@pytest.mark.parametrize("text", [KEY, f"  {KEY}\n", f"it is {KEY}.", f"<{KEY}> from the mail", f"key:\n{KEY}\nBye"])
def test_a_token_is_read_as_it_stands(text: str) -> None:
    assert TOKENS.codes(text) == (KEY,)


@pytest.mark.parametrize(
    ("text", "found"),
    [("no token came", ()), (f"{KEY} {KEY[::-1]}", (KEY, KEY[::-1])), ("", ()), (f"{KEY} {KEY}", (KEY,))],
)
def test_of_tokens_none_or_all_are_found(text: str, found: tuple[str, ...]) -> None:
    assert TOKENS.codes(text) == found


# --- words


def names(id_: str) -> list[tuple[str, str]]:
    """Return each name that the catalogues give a word, and its language."""
    return [(name.strip(), locale) for locale in LOCALES for name in TEXTS.pattern(id_, locale).split(",")]


WORDS = [pytest.param(word, name, id=name) for word in Word for name, _ in names(f"chat.words.{word}")]
POLITE = ["please", "Pls", "thanks", "thank you", "bitte", "danke", "por favor", "gracias"]


@pytest.mark.parametrize(("word", "name"), WORDS)
def test_a_word_counts_in_any_language_and_dress(word: Word, name: str) -> None:
    dresses = [name, name.upper(), name.title(), f"  {name}!", f"“{name}”", f"{name}...", f"*{name}*", f"🙏 {name} 😀"]
    dresses += [f"{name}\n", f"\N{ZERO WIDTH SPACE}{name}", name.replace(" ", "\N{NO-BREAK SPACE}"), f"¡{name}!"]
    assert {dress: DIGITS.word(dress) for dress in dresses} == dict.fromkeys(dresses, word)


@pytest.mark.parametrize("polite", POLITE)
@pytest.mark.parametrize(
    ("word", "name"), [(Word.CANCEL, "cancel"), (Word.CANCEL, "abbrechen"), (Word.RESEND, "otro código")]
)
def test_a_word_counts_however_politely_it_is_said(word: Word, name: str, polite: str) -> None:
    for text in (f"{name} {polite}", f"{polite}, {name}!", f"{name}, {polite}."):
        assert DIGITS.word(text) is word


def test_no_word_means_two_things() -> None:
    meant = {
        (" ".join(name.replace("'", "").split()), str(kind))
        for kind in (*Word, "aside")
        for name, _ in names(f"chat.words.{kind}")
    }
    assert sorted(name for name, count in Counter(name for name, _ in meant).items() if count > 1) == []


@pytest.mark.parametrize("text", ["I don’t understand", "i dont understand", "I DON'T UNDERSTAND!"])
def test_an_apostrophe_does_not_matter(text: str) -> None:
    assert DIGITS.word(text) is Word.HELP


@pytest.mark.parametrize(
    ("text", "word"),
    [("olvidalo", Word.CANCEL), ("otro codigo", Word.RESEND), ("Como?", Word.HELP), ("ｃａｎｃｅｌ", Word.CANCEL)],
)
def test_a_word_counts_without_its_accents_and_in_full_width(text: str, word: Word) -> None:
    assert DIGITS.word(text) is word


@pytest.mark.parametrize("word", Word)
def test_a_button_or_a_slash_steers(word: Word) -> None:
    for text in (f"/{word}", f"/{word.upper()}", f" /{word}@reset_bot ", f"/{word} now"):
        assert DIGITS.word(text) is word


@pytest.mark.parametrize(
    "text",
    ["", " ", "cancel my subscription", "don't cancel", "please", "Danke", "/start", "/cancelled", "canc",
     "answer: stop", "login: help", "the agent", "741175", "?", "how much is it", "a/cancel"],
)  # fmt: skip
def test_what_is_more_or_less_than_a_word_steers_nothing(text: str) -> None:
    assert DIGITS.word(text) is None


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("button", BUTTONS)
def test_what_is_written_on_a_button_counts_where_it_is_typed(button: str, locale: str) -> None:
    assert DIGITS.word(TEXTS.say(BUTTONS[button], locale)) is Word(sent_by(button).removeprefix("/"))


def test_what_a_tenant_writes_on_a_button_counts_as_well() -> None:
    reader = Reader(Texts({"en": {"page.again": "Back to the start, please"}}), CodeFormat.digits(6))
    assert reader.word("back to the start") is None
    assert reader.word("back to the start, please") is Word.RESTART


# --- logins, answers, passwords


def as_typed(step: str, text: str) -> str | None:
    return DIGITS.answer(text) if step == "answer" else DIGITS.password(text)


@pytest.mark.parametrize(
    ("text", "login"),
    [
        ("robert.zak", "robert.zak"),
        ("  robert.zak\n", "robert.zak"),
        ("robert.zak.", "robert.zak"),
        ("\N{ZERO WIDTH SPACE}robert.zak\N{ZERO WIDTH NO-BREAK SPACE}", "robert.zak"),
        ("login: robert.zak", "robert.zak"),
        ("My login is: robert.zak", "robert.zak"),
        ("Benutzername: jörg.müller", "jörg.müller"),
        ("usuario = maria", "maria"),
        ("login: who?", "who?"),
        ("robert.zak!!", "robert.zak"),
        ('login: "robert!"', "robert!"),
        ('login: "skip"', "skip"),
        ("Kundennummer: 4711881", "4711881"),
        ("“robert.zak”", "robert.zak"),
        ('login: "robert.zak"', "robert.zak"),
        ("4711", "4711"),
        ("it is hello@autoshares.com, please", "hello@autoshares.com"),
        ("mail <hello@autoshares.com>.", "hello@autoshares.com"),
        ("is it hello@autoshares.com?", "hello@autoshares.com"),
        ("a@b.example a@b.example", "a@b.example"),
    ],
)
def test_a_login_is_found(text: str, login: str) -> None:
    assert DIGITS.login(text) == login


@pytest.mark.parametrize(
    "text",
    [
        "my login is robert.zak",
        "My login is “robert.zak”.",
        "Hi, my username is robert.zak, thank you!",
        "login robert.zak",
        "username robert.zak please",
        "it's robert.zak",
        "It’s robert.zak 🙂",
        "yes, it is robert.zak",
        "its robert.zak",
        "sorry, I mean robert.zak",
        "try robert.zak",
        "User ID: robert.zak",
        "ich meine robert.zak",
        "robert.zak, please",
        "login: robert.zak, please",
        "mein Login ist robert.zak",
        "Hallo, mein Benutzername lautet robert.zak.",
        "Benutzer robert.zak",
        "er lautet robert.zak",
        "mi usuario es robert.zak",
        "¡Hola! Mi nombre de usuario es robert.zak, por favor",
        "usuario robert.zak",
        "es robert.zak",
    ],
)
def test_a_login_is_found_after_words_that_say_that_it_is_one(text: str) -> None:
    assert DIGITS.login(text) == "robert.zak"


@pytest.mark.parametrize("login", ["zak1970", "r_zak", "jörg.müller", "robert.zak-2", "4711", "r.zak+test"])
def test_after_such_words_a_login_is_what_no_ordinary_word_looks_like(login: str) -> None:
    assert DIGITS.login(f"my login is {login}") == login


@pytest.mark.parametrize(
    "text",
    [
        'login: "robert zak"',
        "Login: “robert zak”, please",
        "my login is “robert zak”.",
        "Benutzername: „robert zak“",
        "Mein Login lautet „robert zak“!",
        "usuario: «robert zak»",
    ],
)
def test_a_login_with_spaces_is_found_in_quotation_marks_after_such_words(text: str) -> None:
    assert DIGITS.login(text) == "robert zak"


@pytest.mark.parametrize(
    "text",
    [
        "my login is broken",
        "my login is robert",  # it may be, and so may "broken"
        "login forgotten",
        "login failed, robert.zak",
        "my login is not robert.zak",
        "my login is robert.zak?",
        "is it robert.zak?",
        "it's robert.zak and I forgot it",
        "robert.zak or zak.robert",
        "login 2fa",
        "it's well-known",
        "it is www.autoshares.com",
        "login https://autoshares.com",
        "it's 14:30",
        "it's 2026",
        "4711, please",
        "user …",
        "thank you, please",
        "login: robert zak",
        "“I forgot it”",
        "it's “not working”",
        "mein Login ist gesperrt",
        "mi usuario es correcto",
        f"my login is {200 * 'z'}.zak",
    ],
)
def test_a_sentence_is_no_login(text: str) -> None:
    assert DIGITS.login(text) is None


@pytest.mark.parametrize(
    "text", ["", " ", "what?", "¿quién", "no", "Nein!", "👍", "...", "!", "idk", "moin",
     "https://example.com/login", "robert zak", "I forgot it", "/start", "login:", "a@b.example or c@d.example",
     "login: a@b.example or c@d.example", 'login: "a@b.example c@d.example"', "a@b.example\nhello",
     f"a@b.example {200 * 'z'}", "741 175", "it's 741175", "code: 741175",
     *(mail.format(code="741175") for mail in MAILS.values())],
)  # fmt: skip
def test_where_a_login_is_unsure_none_is_found(text: str) -> None:
    assert DIGITS.login(text) is None


@pytest.mark.parametrize("number", ["741175", "741-175", "#741175", "٧٤١١٧٥"])
def test_a_number_as_long_as_a_code_is_a_login_unless_a_code_may_come(number: str) -> None:
    assert DIGITS.login(number) == number
    assert DIGITS.login(number, may_be_code=True) is None


@pytest.mark.parametrize("text", ["login: 741175", "My login is 741175", "usuario = 741175"])
def test_a_number_as_long_as_a_code_is_a_login_where_that_is_said(text: str) -> None:
    assert DIGITS.login(text, may_be_code=True) == "741175"


@pytest.mark.parametrize("login", ["741175z", "74117", "7411755", "r741175"])
def test_what_is_not_as_long_as_a_code_or_has_letters_may_be_a_login(login: str) -> None:
    assert DIGITS.login(login, may_be_code=True) == login
    assert not DIGITS.looks_like_code(login)


def test_where_codes_have_letters_a_number_may_be_a_login() -> None:
    assert LETTERS.login("74117511", may_be_code=True) == "74117511"


@pytest.mark.parametrize(
    ("step", "text", "typed"),
    [
        ("answer", "Peterson", "Peterson"),
        ("answer", " Königsallee  7 ½ ", " Königsallee  7 ½ "),
        ("answer", "answer: Peterson", "Peterson"),
        ("answer", "Antwort: Peterson Straße?", "Peterson Straße?"),
        ("answer", "MI RESPUESTA: Calle", "Calle"),
        ("answer", "My answer is Peterson", "Peterson"),
        ("answer", "die Antwort lautet Peterson", "Peterson"),
        ("answer", "mi respuesta es Calle Mayor", "Calle Mayor"),
        ("answer", "answer Peterson", "Peterson"),
        ("answer", "answer: the answer is 42", "the answer is 42"),
        ("answer", "answerable", "answerable"),
        ("answer", "password: x", "password: x"),
        ("answer", "1987: or so", "1987: or so"),
        ("password", "violet-tractor-5", "violet-tractor-5"),
        ("password", "password: violet tractor 5", "violet tractor 5"),
        ("password", "password: violet tractor?", "violet tractor?"),
        ("password", " violet-tractor-5\n", "violet-tractor-5"),
        ("password", "/violet5", "/violet5"),
        ("password", "Neues Passwort: violett", "violett"),
        ("password", "contraseña = violeta", "violeta"),
        ("password", "answer:x", "answer:x"),
        ("password", "passwords:x", "passwords:x"),
    ],
)
def test_an_answer_or_a_password_is_taken_exactly_as_typed_without_its_label(step: str, text: str, typed: str) -> None:
    assert as_typed(step, text) == typed


@pytest.mark.parametrize("step", ["answer", "password"])
@pytest.mark.parametrize(
    "text",
    ["", "  ", "what is my balance?", "¿Cómo estás", "balance？", "ما هو الرصيد؟", "what\N{GREEK QUESTION MARK}"],
)
def test_what_looks_like_a_question_is_no_answer_and_no_password(step: str, text: str) -> None:
    assert as_typed(step, text) is None


@pytest.mark.parametrize("text", ["thanks", "Thank you!", "ok", "Hallo", "vielen Dank 🙏", "¡Hola!", "muchas gracias"])
def test_a_greeting_or_thanks_is_no_login_no_answer_and_no_password(text: str) -> None:
    assert DIGITS.login(text) is as_typed("answer", text) is as_typed("password", text) is None
    assert as_typed("answer", f"answer: {text}") == text
    assert DIGITS.login("login: hello") == "hello"


@pytest.mark.parametrize("part", ["a", "1", "a-", "a@", "a.", "1 ", "+1", "(01)", " ", "x://", "!", "😀", "12345x"])
@pytest.mark.parametrize("reader", [DIGITS, LETTERS, TOKENS], ids=["digits", "letters", "tokens"])
def test_a_text_that_is_made_to_take_long_is_read_all_the_same(reader: Reader, part: str) -> None:
    text = part * 100_000
    assert reader.word(text) is None
    assert len(reader.codes(text)) <= 1
    assert reader.login(text) in (None, text, text.rstrip(".,;"))
    assert reader.answer(text) in (None, text)


def test_a_long_text_is_not_searched_for_words_which_would_hold_up_everybody() -> None:
    assert DIGITS.word(f"cancel{100 * '!'}") is Word.CANCEL
    assert DIGITS.word(f"cancel{1_000 * '!'}") is None
    assert DIGITS.word(f"/cancel {1_000 * '!'}") is Word.CANCEL
    assert as_typed("answer", f"thanks{100 * '!'}") is None
    assert as_typed("answer", f"thanks{1_000 * '!'}") == f"thanks{1_000 * '!'}"
