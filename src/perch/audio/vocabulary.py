"""The words that exist as tones (see ``tones``). Their order is their coding: append, never reorder."""

_WORDS = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred
    thousand a the and or not no yes is are was be this that these those it he she we you they in on
    at by to from of for with up down left right over under before after now then here there when
    where what who how why hello goodbye please thanks stop go start finish open close begin end turn
    wait run walk speak listen hear say tell ask answer call send bring take give make find keep move
    play read write see look watch learn know think remember red green blue white black yellow brown
    orange silver gold big small long short high low fast slow hot cold new old good better best first
    second third last next early late day night morning evening week month year hour minute today
    tomorrow monday friday sunday spring summer autumn winter north south east west bird perch nest
    feather wing tree river lake sea mountain valley forest garden field stone sand rain snow wind
    storm sun moon star sky house door window table chair kitchen letter word voice sound music song
    story book paper
"""

VOCABULARY: tuple[str, ...] = tuple(_WORDS.split())
