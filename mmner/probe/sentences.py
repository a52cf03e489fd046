"""The words of the probe: names that fit several types, and sentence templates in four languages."""

from collections import defaultdict
from dataclasses import dataclass

# Each name is at home in at least two of the four types. A name that a split holds out is in no other split.
_KNOWN = """
Abbott Adelaide Alba Amazon Apollo Arlington Asia Atlas Aurora Austin Avalon Bedford Berkeley Boston Bristol Brooklyn
Byron Cairo Camden Carolina Carter Charlotte Chelsea Chester Cleveland Clifton Columbus Constance Córdoba Dakota Dallas
Daphne Delta Denver Diana Dover Durham Eden Emerson Florence Franklin Geneva Georgia Gibson Granada Grant Hamilton
Hampton Harvard Helena Hermes Holland Houston Hudson Jackson Jamaica Jersey Jordan Kent Kenya Kimberley Kingston
Lancaster León Lewis Lima Lincoln Livingston Logan London Lorraine Lourdes Luna Madison Málaga Marina Marshall Mason
Melbourne Memphis Mercedes Mérida Milan Monroe Montana Morgan Nelson Nevada Newton Norfolk Olympia Orange Orion Orlando
Oxford Palmer Paris Petra Phoenix Preston Regina Roma Salvador Santiago Saturn Savannah Sheridan Siena Sofia Spencer
Stanford Sterling Sydney Taylor Titan Toledo Troy Valencia Venice Vernon Victoria Vienna Virginia Warwick Washington
""".split()
# English compounds are surnames, places, firms and titles alike; so many keep a model from learning names by heart.
_STEMS = "Ash Brad Carl Clay Crom Dal Elm Fair Glad Hart Kirk Lang Marl Mill Oak Pem Rad Rush Stan Thorn Wal Win"
_ENDINGS = "bourne bridge brook bury dale field ford ham land ley ton well wood worth"
NAMES = sorted({*_KNOWN, *(stem + ending for stem in _STEMS.split() for ending in _ENDINGS.split())})
SURNAMES = (
    "Banks Rivers Hill Lane Park Wells Fields Woods Stone Marsh Brooks Ford Heath Bay Cruz Rosa Real Prado".split()
)


@dataclass(frozen=True)
class Phrases:
    """The templates of one language: words and slots, separated by spaces."""

    openers: tuple[str, ...]
    closers: tuple[str, ...]
    templates: tuple[str, ...]
    """Ambiguous ones have `{X}` and `{Y}`, whose type only the image tells: no article and no agreement may depend on
    it. The others have slots such as `{PER}`, whose type the words tell."""

    @property
    def ambiguous(self) -> list[str]:
        return [template for template in self.templates if "{X}" in template]

    @property
    def clear(self) -> dict[str, list[str]]:
        """By the type of the first slot, which is the one that an image may depict."""
        by_type = defaultdict(list)
        for template in self.templates:
            if "{X}" not in template:
                by_type[template[template.index("{") + 1 : template.index("}")]].append(template)
        return dict(by_type)


PHRASES = {
    "en": Phrases(
        openers=("honestly ,", "once again :", "in short :", "as expected ,"),
        closers=("Nobody knows why .", "More tomorrow .", "Just ask doctor {PER} .", "So says the company {ORG} ."),
        templates=(
            "everyone is talking about {X} .",
            "{X} was in the news again this week .",
            "what do you think of {X} ?",
            "{X} has changed a lot in ten years .",
            "my grandmother loves {X} .",
            "there is more about {X} on page <N> .",
            "look , this is {X} !",
            "{X} and {Y} were the topic of the evening .",
            "doctor {PER} examined <N> patients in {LOC} .",
            "my uncle {PER} plays the violin .",
            "the singers {PER} and {PER} got married in 19<N> .",
            "the river flows through {LOC} towards the sea .",
            "trains between {LOC} and {LOC} are late .",
            "it rained in {LOC} for <N> days , complained doctor {PER} .",
            "shares of {ORG} fell by <N> percent .",
            "the company {ORG} hired <N> engineers in {LOC} .",
            "the firms {ORG} and {ORG} will merge .",
            "the novel {MISC} has <N> chapters .",
            "the songs {MISC} and {MISC} sound alike .",
            "she read the book {MISC} to doctor {PER} .",
        ),
    ),
    "de": Phrases(
        openers=("ehrlich gesagt :", "schon wieder :", "kurz gesagt :", "wie erwartet :"),
        closers=("Niemand weiß warum .", "Morgen mehr .", "Fragt doch Doktor {PER} .", "So die Firma {ORG} ."),
        templates=(
            "alle reden über {X} .",
            "{X} war diese Woche wieder in den Nachrichten .",
            "was haltet ihr von {X} ?",
            "{X} hat sich in zehn Jahren sehr verändert .",
            "meine Oma liebt {X} .",
            "mehr über {X} steht auf Seite <N> .",
            "schaut mal , das ist {X} !",
            "{X} und {Y} waren das Thema des Abends .",
            "Doktor {PER} untersuchte <N> Patienten in {LOC} .",
            "mein Onkel {PER} spielt Geige .",
            "die Sänger {PER} und {PER} heirateten 19<N> .",
            "der Fluss fließt durch {LOC} zum Meer .",
            "Züge zwischen {LOC} und {LOC} sind verspätet .",
            "in {LOC} regnete es <N> Tage , klagte Doktor {PER} .",
            "die Aktien von {ORG} fielen um <N> Prozent .",
            "die Firma {ORG} suchte <N> Ingenieure in {LOC} .",
            "die Konzerne {ORG} und {ORG} fusionieren .",
            "der Roman {MISC} hat <N> Kapitel .",
            "die Lieder {MISC} und {MISC} klingen gleich .",
            "sie las das Buch {MISC} Doktor {PER} vor .",
        ),
    ),
    "fr": Phrases(
        openers=("franchement ,", "encore une fois ,", "bref :", "comme prévu ,"),
        closers=(
            "Personne ne sait pourquoi .",
            "La suite demain .",
            "Demandez au docteur {PER} .",
            "Source : la société {ORG} .",
        ),
        templates=(
            "tout le monde connaît {X} .",
            "{X} faisait encore parler cette semaine .",
            "que dire sur {X} ?",
            "{X} a beaucoup changé en dix ans .",
            "ma grand-mère adore {X} .",
            "un article sur {X} paraît en page <N> .",
            "regardez , voici {X} !",
            "{X} et {Y} étaient le sujet du soir .",
            "le docteur {PER} examina <N> patients à {LOC} .",
            "mon oncle {PER} joue du violon .",
            "les chanteurs {PER} et {PER} se marièrent en 19<N> .",
            "le fleuve traverse {LOC} vers la mer .",
            "les trains entre {LOC} et {LOC} sont en retard .",
            "il plut à {LOC} pendant <N> jours , se plaignit le docteur {PER} .",
            "les actions du groupe {ORG} chutèrent de <N> pour cent .",
            "la société {ORG} recruta <N> ingénieurs à {LOC} .",
            "les entreprises {ORG} et {ORG} vont fusionner .",
            "le roman {MISC} compte <N> chapitres .",
            "les chansons {MISC} et {MISC} se ressemblent .",
            "elle lut le livre {MISC} au docteur {PER} .",
        ),
    ),
    "es": Phrases(
        openers=("sinceramente ,", "otra vez :", "en resumen :", "como siempre ,"),
        closers=("Nadie sabe por qué .", "Mañana más .", "Pregunten al doctor {PER} .", "Fuente : la empresa {ORG} ."),
        templates=(
            "todo el mundo habla de {X} .",
            "{X} volvió a ser noticia esta semana .",
            "¿ qué piensan ustedes de {X} ?",
            "{X} ha cambiado mucho en diez años .",
            "a mi abuela le encanta {X} .",
            "hay más sobre {X} en la página <N> .",
            "¡ miren , aquí está {X} !",
            "{X} y {Y} fueron el tema de la noche .",
            "el doctor {PER} examinó a <N> pacientes en {LOC} .",
            "mi tío {PER} toca el violín .",
            "los cantantes {PER} y {PER} se casaron en 19<N> .",
            "el río pasa por {LOC} hacia el mar .",
            "los trenes entre {LOC} y {LOC} llegan tarde .",
            "llovió en {LOC} durante <N> días , se quejó el doctor {PER} .",
            "las acciones de {ORG} cayeron un <N> por ciento .",
            "la empresa {ORG} contrató a <N> ingenieros en {LOC} .",
            "las compañías {ORG} y {ORG} se fusionan .",
            "la novela {MISC} tiene <N> capítulos .",
            "las canciones {MISC} y {MISC} se parecen .",
            "ella leyó el libro {MISC} al doctor {PER} .",
        ),
    ),
}
