"""Guards: what each pattern finds and leaves alone, and what passes as English."""

import json

import pytest

from lima.curate import guards


def found(text):
    return list(
        guards.findings([{"role": "user", "content": "Please look at this."}, {"role": "assistant", "content": text}])
    )


@pytest.mark.parametrize(
    "name, text",
    [
        ("private_key", "-----BEGIN RSA PRIVATE KEY-----\nMIIE"),
        ("private_key", "-----BEGIN PGP PRIVATE KEY BLOCK-----"),
        ("aws_key", "export KEY=AKIA" + "ABCD1234EFGH5678"),
        ("github_token", "token: ghp_" + "a1B2" * 9),
        ("slack_token", "xoxb-" + "123456789012-abcdef"),
        ("google_key", "key=AIza" + "Sy" + "a1B2c" * 6 + "xyz"),
        ("model_api_key", "OPENAI_API_KEY=sk-" + "a1B2c3D4" * 5),
        ("model_api_key", "hf_" + "a1B2c3D4" * 5),
        ("stripe_key", "sk_live_" + "a1B2c3D4" * 3),
        ("jwt", "Bearer eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJSMeKKF2QT4"),
        ("url_password", "git clone https://ada:hunter22@git.site.org/repo"),
        ("email", "write to ada.lovelace+x@site.co.uk, please"),
        ("phone", "call +44 20 7946 0958 today"),
        ("phone", "call (415) 867-5309."),
        ("phone", "call 415-867-5309"),
        ("card_number", "card 4111 1111 1111 1111 till May"),
        ("card_number", "5500005555555559"),
        ("iban", "to DE89 3704 0044 0532 0130 00 by noon"),
        ("social_security", "her number is 123-45-6789"),
        ("ip_address", "the server at 93.184.216.34 answers"),
    ],
)
def test_finds(name, text):
    assert name in found(text)


@pytest.mark.parametrize(
    "text",
    [
        "write to user@example.com or root@localhost.localdomain",
        "-----BEGIN PUBLIC KEY-----",
        "AKIA is a prefix; sk-learn is a library; hf_token is a variable; eyJ begins a token",
        "https://user:password@host/ and https://<user>:<pass>@host/ and postgres://u:$PASS@db/x",
        "call 555-867-5309, or (212) 555-0100",
        "ISBN 978-0-306-40615-7, 1234567890123456, 0000 0000 0000 0000, 4111 1111 1111 1112",
        "version 1.2.3.4 on 192.168.1.10 or 127.0.0.1 or 10.0.0.1, subnet 255.255.255.0, 999.1.1.1",
        "pi is 3.14159265358979 and 2023-05-18 12:00:00 is a date, 1990-1995 are years",
        "DE89 3704 0044 0532 0130 01 fails its check",
        "000-12-3456, 666-12-3456 and 123-45-67890 are no numbers of that kind",
        "x = [1, 22, 333, 4444, 55555]; range 100-200-3000; 1,234,567.89",
    ],
)
def test_leaves_alone(text):
    assert found(text) == []


def test_a_finding_does_not_carry_what_it_found():
    flags = guards.findings([{"role": "user", "content": "ada.lovelace@site.org 4111111111111111"}])
    assert flags == {"email": "ad…org", "card_number": "41…111"}


ENGLISH = (
    "The brakes of a bicycle need care now and then, and this is how you should go about it: first look at the pads."
)
OTHERS = {
    "French": "Les freins d'un vélo ont besoin de soins de temps en temps, et voici comment il faut s'y prendre: on regarde "
    "d'abord les patins, puis les câbles et enfin les leviers sur le guidon.",
    "German": "Die Bremsen an einem Fahrrad brauchen ab und zu etwas Pflege, und so geht man dabei am besten vor: zuerst sieht "
    "man sich die Klötze an, dann die Züge und am Ende die Hebel am Lenker.",
    "Spanish": "Los frenos de una bicicleta necesitan cuidado de vez en cuando, y así se hace: primero se miran las zapatas, "
    "luego los cables y por último las manetas que están en el manillar.",
    "Portuguese": "Os travões de uma bicicleta precisam de cuidados de vez em quando, e é assim que se faz: primeiro olha-se "
    "para os calços, depois para os cabos e no fim para as manetes do guiador.",
    "Dutch": "De remmen van een fiets hebben af en toe wat zorg nodig, en zo pak je dat aan: kijk eerst naar de blokjes, dan "
    "naar de kabels en ten slotte naar de hendels op het stuur van je fiets.",
    "Russian": "Тормоза велосипеда иногда требуют ухода.",
    "Chinese": "自行车的刹车偶尔需要保养。",
}


def language(*texts):
    return guards.language([{"role": "user", "content": text} for text in texts])


def test_english_passes():
    assert language(ENGLISH) is None
    assert language("Fix brakes?") is None  # too short to be judged
    assert language("Réponse naïve?", ENGLISH) is None


@pytest.mark.parametrize("name", OTHERS)
def test_other_languages_do_not(name):
    assert language(OTHERS[name])


def test_code_and_mathematics_are_not_judged():
    code = "```python\n" + "valeur = calculer(nombre, suivant)\n" * 30 + "```"
    assert language("Sort a list, how?", code) is None
    assert language("Prove it.", "$" + r"\alpha \beta \gamma " * 30 + "$ ok") is None
    assert language("Übersetzen?", code, OTHERS["German"])


def test_limas_rows(shared):
    """Nine of GAIR/lima's 1,030 rows are in other languages, all from Stack Exchange; one more is half German names."""
    rows = [json.loads(line)["conversations"] for line in open(shared / "lima/train.jsonl", encoding="utf-8")]
    foreign = [number for number, row in enumerate(rows) if language(*row)]
    assert foreign == [245, 254, 260, 263, 273, 292, 335, 394, 399, 941]
    secrets = [number for number, row in enumerate(rows) for name in found("\n".join(row)) if name in guards.SECRETS]
    assert secrets == []
