"""Another wording for a sentence of documentation: verbs and nouns by synonyms, articles and fillers left
out, an opening phrase, a clause moved to the front."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from softnce_ray.corpus.duplicates import normalise_query

_DETERMINERS = (
    "a an the this that these those all any each every its their his one two three multiple several given both "
    "another new current whether if self some no existing"
)
_DETERMINER = rf"(?:{'|'.join(_DETERMINERS.split())})\b"
_QUESTION = r"(?:if|whether)\b"
# (verbs with one meaning, what must follow so that they have it). An underscore is a space, and the first word
# is the one that is inflected. The first row that fits is used.
_VERBS: tuple[tuple[str, str], ...] = (
    ("check determine test verify find_out", _QUESTION),
    ("return tell indicate say", _QUESTION),
    ("check verify confirm", r"that\b"),
    ("ensure make_sure guarantee", r"that\b"),
    ("return give yield_back", r"(?:True|False|None)\b"),
    ("create make build construct", r"(?:an?|new)\b"),
    ("iterate_over loop_over go_over step_through", ""),
    ("set_up prepare initialize initialise get_ready", ""),
    ("look_up find locate look_for search_for", ""),
    ("wait_for await", ""),
    ("wait_until block_until", ""),
    ("try_to attempt_to", ""),
    ("turn_on enable activate switch_on", ""),
    ("turn_off disable deactivate switch_off", ""),
    ("shut_down stop terminate halt", ""),
    ("deal_with handle process take_care_of", ""),
    ("walk_through traverse go_through", ""),
    ("return get give retrieve fetch obtain", ""),
    ("create build construct", ""),
    ("generate produce", ""),
    ("check verify validate", ""),
    ("remove delete drop discard erase", ""),
    ("compute calculate work_out", ""),
    ("convert transform change", r"(?!.*\binto\b).*\bto\b"),
    ("convert transform turn", r".*\binto\b"),
    ("determine find_out work_out", ""),
    ("append add attach", r".*\bto\b"),
    ("parse interpret", ""),
    ("execute run carry_out", ""),
    ("perform carry_out do execute", ""),
    ("update modify", ""),
    ("extract pull_out take_out", ""),
    ("read load", ""),
    ("save store persist", ""),
    ("write save output", ""),
    ("replace substitute swap", r".*\bwith\b"),
    ("print display show output", ""),
    ("copy duplicate clone", ""),
    ("split divide break_up partition", ""),
    ("merge combine join unite", ""),
    ("send transmit dispatch", ""),
    ("call invoke", ""),
    ("normalize normalise standardize", ""),
    ("raise throw", ""),
    ("clear empty", ""),
    ("start launch", ""),
    ("select choose pick", ""),
    ("sort order arrange", ""),
    ("count tally", ""),
    ("estimate approximate", ""),
    ("detect discover identify recognise", ""),
    ("collect gather assemble", ""),
    ("modify alter change", ""),
    ("use employ utilise", ""),
    ("yield generate emit", ""),
    ("draw render plot", ""),
    ("infer deduce derive", ""),
    ("move shift relocate", ""),
    ("skip omit leave_out", ""),
    ("allow permit", r".*\bto\b"),
    ("cancel abort call_off", ""),
    ("describe explain", ""),
    ("evaluate assess", ""),
    ("receive accept", ""),
    ("define declare", ""),
    ("download fetch", ""),
    ("examine inspect", ""),
    ("reset reinitialize", ""),
    ("close shut", ""),
    ("record register log", ""),
    ("display show", ""),
)
# Verbs without a synonym that is good everywhere: they can still get an opening phrase.
_OTHER_VERBS = (
    "set apply wrap pad encode decode format filter map list resolve fit register insert construct open mark use "
    "preprocess postprocess predict resize rewrite serialize deserialize compile implement export import instantiate "
    "configure reduce expand translate compare infer clean rename cast push pop scale assign fill define invoke "
    "group broadcast flush adjust force report render upload install monitor lock unlock sample plot train "
    "simplify patch trim strip truncate concatenate flatten reshape rotate crop shuffle hash sign encrypt decrypt "
    "escape quote unwrap bind attach detach connect disconnect log print track score crawl visit annotate align"
)
# As a first word these are often nouns or adjectives: they are verbs only before a determiner.
_AMBIGUOUS_WORDS = (
    "test list log map record report filter format count order sort group set sample search hash score patch sign "
    "escape quote pad strip crop clean empty open register complete plot estimate output block scale import export "
    "process train live exit separate transform dispatch display fit draw split lock"
)
_AMBIGUOUS = frozenset(_AMBIGUOUS_WORDS.split())
_NO_OBJECT = (
    r"(?:of|to|from|for|in|into|on|onto|at|by|with|without|is|are|was|were|has|have|can|should|which|who|sure|up|out|"
    r"off|back|over|through|down|not|as|until|than|when|where|rid|or|via|about|like|but|so|ready|care)\b"
)
_NO_VERBS_WORDS = (
    "if when while for from to in into on at by with without within whether given like as of and or but is are was "
    "be all both only not then else since because during after before until under over between per via than that "
    "this these those the a an each every any it its his her where which who what how why here there also once "
    "inverse part true false none same see whenever though although unless inside outside against about through "
    "does has can must should will may might just even despite upon such across along among around versus"
)
_NO_VERBS = frozenset(_NO_VERBS_WORDS.split())

# Pattern and replacements; the patterns do not reach into identifiers (dots, underscores, quotes beside them).
_EDGE, _END = r"(?<![\w.\-'\"`/(\[])", r"(?![\w(\-'\"`/=\[]|\.\w)"
_PHRASES: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = tuple(
    (re.compile(_EDGE + pattern + _END), replacements)
    for pattern, replacements in (
        (r"(the|a|this|given) function", (r"\1 routine",)),
        (r"(a|the|this) list of", (r"\1 sequence of",)),
        (r"(the|given|input) string", (r"\1 text",)),
        (r"(the|a|this|given) file", (r"\1 document",)),
        (r"dictionaries", ("dicts", "mappings")),
        (r"dictionary", ("dict", "mapping")),
        (r"dict", ("dictionary", "mapping")),
        (r"mapping of", ("dictionary of", "dict of")),
        (r"the (?:given|provided)", ("the specified", "the supplied")),
        (r"the specified", ("the given", "the provided")),
        (r"directory", ("folder",)),
        (r"directories", ("folders",)),
        (r"folder", ("directory",)),
        (r"folders", ("directories",)),
        (r"whether(?! (?:or|to))", ("if",)),
        (r"using", ("by means of", "with the help of")),
        (r"via", ("through", "by way of")),
        (r"in order to", ("to", "so as to")),
        (r"based on", ("according to", "on the basis of")),
        (r"such as", ("like",)),
        (r"must be", ("has to be",)),
        (r"e\.g\.,?", ("for example",)),
        (r"i\.e\.,?", ("that is,",)),
        (r"each", ("every",)),
        (r"every", ("each",)),
        (r"multiple(?! of)", ("several",)),
        (r"several", ("multiple",)),
        (r"(the )?number of", (r"\1count of",)),
        (r"associated with", ("belonging to", "linked to")),
        (r"corresponding to", ("matching", "that belongs to")),
        (r"elements", ("items",)),
        (r"items", ("elements",)),
        (r"element", ("item",)),
        (r"contains", ("holds",)),
        (r"containing", ("holding", "with")),
        (r"maximum", ("largest",)),
        (r"minimum", ("smallest",)),
        (r"is not", ("isn't",)),
        (r"does not", ("doesn't",)),
        (r"do not", ("don't",)),
        (r"cannot", ("can't",)),
        (r"currently", ("at present", "now")),
        (r"as well as", ("and also",)),
        (r"if necessary", ("if needed", "where needed")),
        (r"if needed", ("if necessary", "when necessary")),
        (r"otherwise", ("else",)),
        (r"instead of", ("rather than",)),
        (r"so that", ("such that",)),
        (r"(?:a|an) instance of", ("an object of",)),
        (r"beginning", ("start",)),
        (r"the following", ("these",)),
    )
)
_FILLERS = re.compile(r" (?:simply|just|basically|actually|automatically|specifically|convenience)(?= [a-z])")
_ARTICLE = re.compile(
    r"(?<=[\w,;:)] )(?:the|an|a) (?=[a-z]{2})"
    r"(?!(?:and|or|is|are|in|to|of|with|as|if|by|from|on|for|at|into|was|has|few|lot|number|given|same|other|next|"
    r"will|be|can|basis|help|must|should|bit|little|more|less)\b)"
)
_NEW = re.compile(r"^((?:create|make|build|construct)s? (?:a|the)) new (?=[a-z])", re.IGNORECASE)
_TRUE_IF = re.compile(r"^(Returns?|return) `?True`? (?:if|when|iff)(?: and only if)? (?=\w)")
_ELSE_FALSE = re.compile(
    r"(?:[,;.]? *(?:and|or|else|otherwise),?)? *(?:(?:and|or|else|otherwise),? *)?(?:returns? )?"
    r"False(?:,? otherwise| if not)?\.?$"
    r"|,? otherwise,? (?:returns? )?False\.?$",
    re.IGNORECASE,
)
_NOUN_LEADS: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = (
    (re.compile(r"^Whether or not (?=\w)"), ("Whether ", "Tells whether ")),
    (re.compile(r"^Whether (?!to\b)(?=\w)"), ("Tell whether ", "True if ", "Says whether ")),
    (re.compile(r"^True (?:if|when) (?=\w)"), ("Whether ", "Tells whether ")),
    (re.compile(r"^(?:Helper|Utility|Convenience) function (?=to|for|that)"), ("Helper ", "A function ", "Routine ")),
    (re.compile(r"^(?:Helper|Utility|Convenience) method (?=to|for|that)"), ("Helper ", "A method ")),
    (re.compile(r"^Helper (?=to|for|that)"), ("Helper function ", "Utility ", "A helper ")),
    (re.compile(r"^Function (?=to|for|that)"), ("Routine ", "A function ", "This is a function ")),
    (re.compile(r"^Decorator (?=to|for|that)"), ("A decorator ", "This is a decorator ")),
    (re.compile(r"^Context manager (?=to|for|that)"), ("A context manager ", "This is a context manager ")),
    (
        re.compile(r"^A (?=(?:decorator|helper|function|method|context|version|wrapper|copy|list|dict)\b)"),
        ("This is a ",),
    ),
    (
        re.compile(r"^This (?:function|method) (?=[a-z]+s\b)"),
        ("The function ", "It ", "A function that ", "Helper that "),
    ),
    (re.compile(r"^Given (?=\w)"), ("For ",)),
)
_OPENINGS_BASE = ("Function to", "Helper to", "Helper function to", "Utility to", "Used to", "Routine to")
_OPENINGS_THIRD = ("This function", "Helper that", "Function that", "Utility that", "Routine that", "This")
_CLAUSE = re.compile(r"^(?P<head>[^,;:()]+) (?P<tail>(?:using|based on|given|if|when) [^,;:()]+?)(?P<stop>\.?)$")
_LEAD = re.compile(r"^(?P<adverb>[A-Za-z]+ly )?(?P<verb>[A-Za-z]+) (?=[\w'\"`*(\[{<.])")


def _third(verb: str) -> str:
    head, space, rest = verb.partition(" ")
    if head in ("do", "go") or head.endswith(("s", "x", "z", "ch", "sh")):
        head += "es"
    elif head.endswith("y") and head[-2:-1] not in "aeiou":
        head = head[:-1] + "ies"
    else:
        head += "s"
    return head + space + rest


_GROUPS = [
    ([word.replace("_", " ") for word in words.split()], re.compile(follows, re.IGNORECASE))
    for words, follows in _VERBS
]
_BASES = {word.split(" ")[0] for group, _ in _GROUPS for word in group} | set(_OTHER_VERBS.split())
_THIRDS = {_third(base): base for base in _BASES}
_Rule = Callable[[str, random.Random], str]


def paraphrase(query: str, rng: random.Random, *, attempts: int = 20) -> str:
    """An English sentence of documentation in other words, with the same meaning.

    `attempts` (1 or more) draws are made until the normalised query differs; where no rule applies, the
    query itself comes back. Equal states of `rng` give equal words. Names of code, numbers and quoted text
    are not touched.
    """
    known = normalise_query(query)
    for attempt in range(attempts):
        # Later attempts apply every rule that can be applied.
        made = _attempt(query, rng, certain=attempt >= attempts // 2)
        if normalise_query(made) != known:
            return made
    return query


def _attempt(query: str, rng: random.Random, *, certain: bool) -> str:
    text = query
    for rule, chance in _RULES:
        if certain or rng.random() < chance:
            text = rule(text, rng)
    return text


def _lead(text: str) -> tuple[str, str, str, bool, str] | None:
    """(adverb, verb as written, base form, whether third person, rest) of a sentence that a verb leads."""
    match = _LEAD.match(text)
    if match is None or (match["verb"].lower() in _NO_VERBS):
        return None
    adverb, word, rest = match["adverb"] or "", match["verb"].lower(), text[match.end() :]
    before_object = re.match(_DETERMINER, rest) is not None
    is_third = word in _THIRDS
    if word in _BASES or is_third:
        base = _THIRDS.get(word, word)
        if not is_third and word in _AMBIGUOUS and not before_object:
            return None
        return adverb, match["verb"], base, is_third, rest
    is_verb = re.match(r"(?:the|an?) \w", rest) and word.isalpha() and not word.endswith(("ed", "ing", "ly"))
    if not is_verb or adverb or match["verb"] != match["verb"].capitalize():
        return None
    if word.endswith("s") and not word.endswith(("ss", "us", "is", "ies", "ches", "shes", "xes", "sses")):
        return adverb, match["verb"], word[:-1], True, rest
    return (adverb, match["verb"], word, False, rest) if not word.endswith("s") else None


def _inflected(base: str, *, third: bool) -> str:
    return _third(base) if third else base


def _like(model: str, word: str) -> str:
    return word[0].upper() + word[1:] if model[:1].isupper() else word


def _verb(text: str, rng: random.Random) -> str:
    """The leading verb by a synonym."""
    found = _lead(text)
    if found is None:
        return text
    adverb, word, base, third, rest = found
    choices = _synonyms(base, rest)
    if not choices:
        return text
    old, follows = rng.choice(choices)
    after = rest.removeprefix(old).lstrip()
    new = _inflected(follows, third=third)
    return adverb + _like(word if not adverb else "", new) + " " + after


def _synonyms(base: str, rest: str) -> list[tuple[str, str]]:
    """(words of `rest` that belong to the verb, a synonym) for the verb `base` before `rest`."""
    for group, follows in _GROUPS:
        for verb in group:
            head, _, particle = verb.partition(" ")
            if head != base or (particle and not rest.startswith(particle + " ")):
                continue
            after = rest.removeprefix(particle).lstrip()
            # A conjunction after the verb needs another verb: "create and return".
            second = re.match(r"and (\w+) ", after)
            if second and second[1] not in _BASES and second[1] not in _THIRDS:
                continue
            others = [other for other in group if other != verb]
            if second:
                others = [other for other in others if " " not in other]
            if re.match(_NO_OBJECT, after) or not follows.match(after) or not others:
                continue
            return [(particle, other) for other in others]
    return []


def _true_if(text: str, rng: random.Random) -> str:
    """`Return True if x, else False` is a question about x."""
    match = _TRUE_IF.match(text)
    rest = _ELSE_FALSE.sub("", text[match.end() :]) if match else ""
    if match is None or re.search(r"\b(?:False|None|otherwise|else|True)\b|[.;] ", rest):
        return text
    verb = rng.choice(("check", "tell", "determine", "test", "find out", "return"))
    third = match[1].endswith("s")
    return f"{_like(match[1], _inflected(verb, third=third))} whether {rest}" + ("" if rest.endswith(".") else ".")


def _noun_lead(text: str, rng: random.Random) -> str:
    for pattern, replacements in _NOUN_LEADS:
        if pattern.match(text):
            return pattern.sub(rng.choice(replacements), text, count=1)
    return text


def _is_single_clause(text: str) -> bool:
    return not re.search(r"[.;:!?] |[,;:] | (?:and|or|then|but) ", text)


def _opening(text: str, rng: random.Random) -> str:
    """An opening phrase before the leading verb, or the verb's other form."""
    found = _lead(text)
    if found is None:
        return text
    adverb, word, base, third, rest = found
    if re.match(r"(?:of|is|are|was|were|has|for)\b", rest) or not word[1:].islower() or (third and rest[:3] == "of "):
        return text
    can_change = _is_single_clause(rest)
    to_third = third if not can_change else rng.random() < 0.5
    if can_change and to_third != third and rng.random() < 0.3:
        return adverb + _like("" if adverb else word, _inflected(base, third=to_third)) + " " + rest
    phrase = rng.choice(_OPENINGS_THIRD if to_third else _OPENINGS_BASE)
    return f"{_like(text, phrase)} {adverb.lower()}{_inflected(base, third=to_third)} {rest}"


def _clause(text: str, rng: random.Random) -> str:
    """A closing `using`, `based on`, `given`, `if` or `when` clause to the front."""
    match, found = _CLAUSE.match(text), _lead(text)
    if match is None or found is None or found[3] or re.search(r"[.?!] ", text):
        return text
    head, tail = match["head"], match["tail"]
    is_question = re.search(
        r"\b(?:check|test|determine|verify|tell|whether|see|find out|if|when|True|say|even|only)\b", head, re.IGNORECASE
    )
    ends_open = re.search(r"\b(?:the|a|an|of|to|and|or|by|that|is|are|be|for|in|as|which|were|was)$", head)
    if (
        is_question
        or ends_open
        or len(head.split()) < 3
        or len(tail.split()) < 3
        or re.search(r"\b(?:if|when|else|otherwise)\b", tail[4:])
    ):
        return text
    if tail.startswith("given") and not re.match(r"given (?:a|an|the|its|some)\b", tail):
        return text
    return f"{_like(head, tail)}, {head[0].lower()}{head[1:]}{match['stop']}"


def _phrases(text: str, rng: random.Random) -> str:
    """Nouns and connectives by synonyms, each with an even chance; what was put in is not replaced again."""
    done: list[str] = []
    rest = text
    while rest:
        found = [
            (match.start(), index, match)
            for index, (pattern, _) in enumerate(_PHRASES)
            if (match := pattern.search(rest))
        ]
        if not found:
            break
        _, index, match = min(found, key=lambda each: each[:2])
        new = match.expand(rng.choice(_PHRASES[index][1])) if rng.random() < 0.5 else match[0]
        done.append(rest[: match.start()] + new)
        rest = rest[match.end() :]
    return "".join(done) + rest


def _articles(text: str, rng: random.Random) -> str:
    return _ARTICLE.sub(lambda match: "" if rng.random() < 0.4 else match[0], text)


def _fillers(text: str, rng: random.Random) -> str:
    return _NEW.sub(r"\1 ", _FILLERS.sub("", text))


_RULES: tuple[tuple[_Rule, float], ...] = (
    (_true_if, 0.7),
    (_phrases, 0.8),
    (_fillers, 0.5),
    (_verb, 0.75),
    (_noun_lead, 0.7),
    (_clause, 0.3),
    (_opening, 0.35),
    (_articles, 0.4),
)
