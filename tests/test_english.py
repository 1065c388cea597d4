import pytest

from st_softinfonce.data import MiningReport, mine_pairs
from st_softinfonce.data.english import EnglishFilter, english_score, is_english

FOREIGN = {
    "german": ["Gibt alle Werte der Liste zurück.", "Berechnet die Summe zweier Zahlen.", "Liest die Datei ein."],
    "french": ["Renvoie la liste des utilisateurs.", "Calcule la somme de deux nombres.", "Ferme la connexion."],
    "spanish": [
        "Devuelve la lista ordenada de usuarios.", "Calcula el número de acciones.", "Cierra la conexión actual.",
    ],
    "portuguese": ["Retorna a lista de usuários.", "Calcula a soma de dois números.", "Fecha a conexão atual."],
    "italian": ["Restituisce la lista degli utenti.", "Calcola la somma di due numeri.", "Chiude la connessione."],
    "dutch": ["Geeft de lijst met gebruikers terug.", "Berekent de som van twee getallen.", "Sluit de verbinding."],
}  # fmt: skip
# Each by itself might be French, Latin or Italian.
SHORT = ["Validates a signature.", "Fix a parameter.", "Compile a rename table command.", "Escapes HTML entities."]
ENGLISH = ["Return the list of all users.", "Compute the sum of two numbers.", "Close the connection to the server."]


def judge(english, texts, package="shop"):
    return english.judge(package, [english_score(text) for text in texts])


@pytest.mark.parametrize("language", FOREIGN)
def test_other_languages_are_dropped_alone_and_together(language):
    assert not any(map(is_english, FOREIGN[language]))
    assert not any(judge(EnglishFilter(), FOREIGN[language]))


def test_english_is_kept_however_short():
    assert all(map(is_english, SHORT + ENGLISH))
    assert all(judge(EnglishFilter(), SHORT + ENGLISH))


def test_a_file_and_a_package_decide_on_short_texts_and_not_on_clear_ones():
    english = EnglishFilter()
    judge(english, FOREIGN["french"] * 10)
    # "Transformation de Fourier" is nearly English by itself.
    assert judge(english, ["Valide la signature", "Return the list of all users."]) == [False, True]
    assert judge(english, ["Format YAML"]) == [False]
    assert judge(english, ["Format YAML"], package="other") == [True]


def test_clear_texts_of_other_languages_are_dropped_among_english_ones():
    english = EnglishFilter()
    judge(english, ENGLISH * 10)
    texts = ENGLISH + [texts[0] for texts in FOREIGN.values()]
    assert judge(english, texts) == [True] * 3 + [False] * 6


@pytest.mark.parametrize("language", FOREIGN)
def test_english_is_kept_within_a_package_of_another_language(language):
    english = EnglishFilter()
    judge(english, FOREIGN[language] * 10)
    # The last begins with no known verb and has no word that is English alone.
    parts = [*ENGLISH, "Handle a failed attempt.", "Appends tombstone marks.", "Locks a resource."]
    texts = FOREIGN[language] * 3 + parts
    assert judge(english, texts) == [False] * 9 + [True] * len(parts)


def test_nothing_is_judged_of_no_texts():
    assert EnglishFilter().judge("shop", []) == []


@pytest.mark.parametrize("text", ["", "_", "\ud800", "x" * 10_000])
def test_any_text_has_a_finite_score(text):
    assert abs(english_score(text)) < 1e6


def test_mining_drops_and_counts_them_by_their_rule(tmp_path):
    body = '\n    """{}"""\n    total = first\n    return total\n\n\n'
    texts = [*FOREIGN["spanish"], *ENGLISH]
    source = "".join(f"def f{index}(first):" + body.format(text) for index, text in enumerate(texts))
    (tmp_path / "a.py").write_text(source.replace("total = first", "total = first + 1"), encoding="utf-8")
    report = MiningReport()
    pairs = mine_pairs(tmp_path, report=report, show_progress=False, keep_duplicates=True)
    assert pairs["query"][:] == ENGLISH
    assert report.functions_dropped["query_not_english"] == 3
    assert report.functions_seen == report.functions_kept + 3
