"""The words of the probe: names that fit several types, and sentence templates in four languages."""

from dataclasses import dataclass, field

# Each name is at home in at least two of the four types. A name that a split holds out is in no other split.
NAMES = """
Abbott Abilene Adelaide Alba Alexandria Amazon Apollo Ariana Arlington Ashton Asia Atlas Auburn Aurora Austin Avalon
Barton Bedford Benedict Benson Bergen Berkeley Beverly Blair Bolton Boston Bradford Bristol Brooklyn Burton Byron
Cairo Calvin Camden Camille Canton Carolina Carson Carter Cecilia Chad Charlotte Chelsea Chester Clayton Cleveland
Clifton Clinton Columbus Concord Constance Córdoba Cornelia Corona Crawford Dakota Dallas Dalton Daphne Dayton Delta
Denver Derby Devon Diana Dorset Douglas Dover Dresden Dundee Durham Easton Eden Elgin Elmira Emerson Everett Fairfax
Falkland Felicia Florence Franklin Fremont Garland Geneva Georgia Gibson Gilbert Granada Grant Guadalupe Hamilton
Hampton Harper Hartford Harvard Hastings Havana Helena Hermes Hobart Holland Houston Hudson Jackson Jamaica Jasper
Jericho Jersey Jordan Julian Juneau Kendall Kent Kenya Kimberley Kingston Kirkland Kiruna Lafayette Lancaster Lansing
Laredo Leandro Leicester León Lewis Lima Lincoln Livingston Logan London Loreto Lorraine Lourdes Lucerne Ludlow Luna
Madeira Madison Magnolia Málaga Manila Marina Marion Marlow Marshall Mason Maxwell Melbourne Memphis Mercedes Mercer
Mérida Milan Monroe Montana Monterey Morelia Morgan Nelson Nevada Nevis Newton Norfolk Norton Novara Oakley Odessa
Olympia Orange Orion Orlando Osborne Oxford Palmer Paris Pasadena Perth Petra Phoenix Pierce Portia Preston Raleigh
Ramona Ravenna Regan Regina Riley Rochester Roland Roma Rutland Salem Salvador Santiago Saturn Savannah Selma Shannon
Shelby Sheridan Sherwood Siena Simone Sofia Somerset Spencer Stafford Stanford Stanley Sterling Surrey Sutton Sydney
Tamara Taylor Tilbury Titan Toledo Trenton Trinidad Tristan Troy Tyler Valencia Valentina Vega Venice Verdun Vernon
Verona Vesta Victoria Vienna Virginia Walton Warren Warwick Washington Wellington Wilmington Windsor Winona Winston
""".split()
# English compounds are surnames, places, firms and titles alike; so many keep a model from learning names by heart.
_STEMS = """
Ash Brad Carl Clay Crom Dal Elm Fair Glad Hart Kirk Lang Marl Mill Oak Pem Rad Rush Stan Thorn Wal Win
""".split()
_ENDINGS = "bourne bridge brook bury dale field ford ham land ley ton well wood worth".split()
NAMES = sorted({*NAMES, *(stem + ending for stem in _STEMS for ending in _ENDINGS)})
SURNAMES = """
Banks Rivers Hill Lane Park Wells Fields Woods Stone Marsh Brooks Ford Heath Bay Cruz Rosa Real Prado
""".split()


@dataclass(frozen=True)
class Phrases:
    """The templates of one language: words and slots, separated by spaces.

    ``ambiguous`` templates fit all four types and reveal none: `{X}` and `{Y}` take the type of the picture, so that
    neither an article nor an agreement may depend on it. A slot such as `{PER}` has its type from the words around it.
    """

    openers: tuple[str, ...]
    closers: tuple[str, ...]
    ambiguous: tuple[str, ...]
    clear: dict[str, tuple[str, ...]] = field(repr=False)
    """Keyed by the type of the first slot, which is the one that a picture may depict."""


PHRASES = {
    "en": Phrases(
        openers=("honestly ,", "once again :", "believe it or not ,", "in short :", "as expected ,", "well ,"),
        closers=(
            "Nobody knows why .",
            "More tomorrow .",
            "What a day !",
            "Just ask doctor {PER} .",
            "We heard it on the bus to {LOC} .",
            "So says the company {ORG} .",
            "The film {MISC} starts at eight .",
        ),
        ambiguous=(
            "everyone is talking about {X} .",
            "{X} was in the news again this week .",
            "I had never heard of {X} before .",
            "what do you think of {X} ?",
            "{X} has changed a lot in ten years .",
            "my grandmother loves {X} .",
            "nothing compares to {X} .",
            "there is more about {X} on page <N> .",
            "today in class : {X} .",
            "look , this is {X} !",
            "{X} and {Y} were the topic of the evening .",
        ),
        clear={
            "PER": (
                "doctor {PER} examined <N> patients in {LOC} .",
                "the nurse {PER} was born in 19<N> .",
                "my uncle {PER} plays the violin .",
                "the singers {PER} and {PER} got married in 19<N> .",
                "her brother {PER} lost his keys .",
            ),
            "LOC": (
                "the river flows through {LOC} towards the sea .",
                "they drove north to {LOC} for <N> hours .",
                "the mayor of {LOC} opened the bridge .",
                "trains between {LOC} and {LOC} are late .",
                "it rained in {LOC} for <N> days , complained doctor {PER} .",
            ),
            "ORG": (
                "shares of {ORG} fell by <N> percent .",
                "the company {ORG} hired <N> engineers in {LOC} .",
                "the club {ORG} signed two players .",
                "the firms {ORG} and {ORG} will merge .",
                "the boss of {ORG} resigned after <N> months .",
            ),
            "MISC": (
                "the novel {MISC} has <N> chapters .",
                "the film {MISC} starts at eight in {LOC} .",
                "the album {MISC} sold <N> copies .",
                "the songs {MISC} and {MISC} sound alike .",
                "she read the book {MISC} to doctor {PER} .",
            ),
        },
    ),
    "de": Phrases(
        openers=("ehrlich gesagt :", "schon wieder :", "kurz gesagt :", "wie erwartet :", "kein Witz :", "tja ,"),
        closers=(
            "Niemand weiß warum .",
            "Morgen mehr .",
            "Was für ein Tag !",
            "Fragt doch Doktor {PER} .",
            "Das hörten wir im Bus nach {LOC} .",
            "So die Firma {ORG} .",
            "Der Film {MISC} beginnt um acht .",
        ),
        ambiguous=(
            "alle reden über {X} .",
            "{X} war diese Woche wieder in den Nachrichten .",
            "von {X} hatte ich noch nie gehört .",
            "was haltet ihr von {X} ?",
            "{X} hat sich in zehn Jahren sehr verändert .",
            "meine Oma liebt {X} .",
            "nichts geht über {X} .",
            "mehr über {X} steht auf Seite <N> .",
            "heute im Unterricht : {X} .",
            "schaut mal , das ist {X} !",
            "{X} und {Y} waren das Thema des Abends .",
        ),
        clear={
            "PER": (
                "Doktor {PER} untersuchte <N> Patienten in {LOC} .",
                "die Pflegekraft {PER} wurde 19<N> geboren .",
                "mein Onkel {PER} spielt Geige .",
                "die Sänger {PER} und {PER} heirateten 19<N> .",
                "ihr Bruder {PER} verlor seine Schlüssel .",
            ),
            "LOC": (
                "der Fluss fließt durch {LOC} zum Meer .",
                "sie fuhren <N> Stunden nach Norden bis {LOC} .",
                "der Bürgermeister von {LOC} eröffnete die Brücke .",
                "Züge zwischen {LOC} und {LOC} sind verspätet .",
                "in {LOC} regnete es <N> Tage , klagte Doktor {PER} .",
            ),
            "ORG": (
                "die Aktien von {ORG} fielen um <N> Prozent .",
                "die Firma {ORG} suchte <N> Ingenieure in {LOC} .",
                "der Verein {ORG} verpflichtete zwei Spieler .",
                "die Konzerne {ORG} und {ORG} fusionieren .",
                "der Chef von {ORG} ging nach <N> Monaten .",
            ),
            "MISC": (
                "der Roman {MISC} hat <N> Kapitel .",
                "der Film {MISC} beginnt um acht in {LOC} .",
                "das Album {MISC} verkaufte sich <N> Mal .",
                "die Lieder {MISC} und {MISC} klingen gleich .",
                "sie las das Buch {MISC} Doktor {PER} vor .",
            ),
        },
    ),
    "fr": Phrases(
        openers=("franchement ,", "encore une fois ,", "bref :", "comme prévu ,", "sans blague ,", "eh bien ,"),
        closers=(
            "Personne ne sait pourquoi .",
            "La suite demain .",
            "Quelle journée !",
            "Demandez au docteur {PER} .",
            "On en parlait dans le bus vers {LOC} .",
            "Source : la société {ORG} .",
            "Le film {MISC} commence à huit heures .",
        ),
        ambiguous=(
            "tout le monde connaît {X} .",
            "{X} faisait encore parler cette semaine .",
            "je ne connaissais pas {X} avant .",
            "que dire sur {X} ?",
            "{X} a beaucoup changé en dix ans .",
            "ma grand-mère adore {X} .",
            "rien ne vaut {X} .",
            "un article sur {X} paraît en page <N> .",
            "aujourd'hui en classe : {X} .",
            "regardez , voici {X} !",
            "{X} et {Y} étaient le sujet du soir .",
        ),
        clear={
            "PER": (
                "le docteur {PER} examina <N> patients à {LOC} .",
                "l' athlète {PER} naquit en 19<N> .",
                "mon oncle {PER} joue du violon .",
                "les chanteurs {PER} et {PER} se marièrent en 19<N> .",
                "son frère {PER} perdit ses clés .",
            ),
            "LOC": (
                "le fleuve traverse {LOC} vers la mer .",
                "ils roulèrent <N> heures au nord vers {LOC} .",
                "le maire élu à {LOC} inaugura le pont .",
                "les trains entre {LOC} et {LOC} sont en retard .",
                "il plut à {LOC} pendant <N> jours , se plaignit le docteur {PER} .",
            ),
            "ORG": (
                "les actions du groupe {ORG} chutèrent de <N> pour cent .",
                "la société {ORG} recruta <N> ingénieurs à {LOC} .",
                "le club {ORG} engagea deux joueurs .",
                "les entreprises {ORG} et {ORG} vont fusionner .",
                "le patron du groupe {ORG} partit après <N> mois .",
            ),
            "MISC": (
                "le roman {MISC} compte <N> chapitres .",
                "le film {MISC} commence à huit heures à {LOC} .",
                "l' album {MISC} se vendit à <N> exemplaires .",
                "les chansons {MISC} et {MISC} se ressemblent .",
                "elle lut le livre {MISC} au docteur {PER} .",
            ),
        },
    ),
    "es": Phrases(
        openers=("sinceramente ,", "otra vez :", "en resumen :", "como siempre ,", "sin broma ,", "bueno ,"),
        closers=(
            "Nadie sabe por qué .",
            "Mañana más .",
            "¡ Qué día !",
            "Pregunten al doctor {PER} .",
            "Lo oímos en el bus hacia {LOC} .",
            "Fuente : la empresa {ORG} .",
            "La película {MISC} empieza a las ocho .",
        ),
        ambiguous=(
            "todo el mundo habla de {X} .",
            "{X} volvió a ser noticia esta semana .",
            "nunca había oído hablar de {X} .",
            "¿ qué piensan ustedes de {X} ?",
            "{X} ha cambiado mucho en diez años .",
            "a mi abuela le encanta {X} .",
            "no hay nada como {X} .",
            "hay más sobre {X} en la página <N> .",
            "hoy en clase : {X} .",
            "¡ miren , aquí está {X} !",
            "{X} y {Y} fueron el tema de la noche .",
        ),
        clear={
            "PER": (
                "el doctor {PER} examinó a <N> pacientes en {LOC} .",
                "la atleta {PER} nació en 19<N> .",
                "mi tío {PER} toca el violín .",
                "los cantantes {PER} y {PER} se casaron en 19<N> .",
                "su hermano {PER} perdió las llaves .",
            ),
            "LOC": (
                "el río pasa por {LOC} hacia el mar .",
                "viajaron <N> horas al norte hasta {LOC} .",
                "el alcalde de {LOC} inauguró el puente .",
                "los trenes entre {LOC} y {LOC} llegan tarde .",
                "llovió en {LOC} durante <N> días , se quejó el doctor {PER} .",
            ),
            "ORG": (
                "las acciones de {ORG} cayeron un <N> por ciento .",
                "la empresa {ORG} contrató a <N> ingenieros en {LOC} .",
                "el club {ORG} fichó a dos jugadores .",
                "las compañías {ORG} y {ORG} se fusionan .",
                "el jefe de {ORG} dimitió tras <N> meses .",
            ),
            "MISC": (
                "la novela {MISC} tiene <N> capítulos .",
                "la película {MISC} empieza a las ocho en {LOC} .",
                "el disco {MISC} vendió <N> copias .",
                "las canciones {MISC} y {MISC} se parecen .",
                "ella leyó el libro {MISC} al doctor {PER} .",
            ),
        },
    ),
}
