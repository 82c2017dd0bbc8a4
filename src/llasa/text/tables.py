"""Word lists of English normalisation: abbreviations, units, currencies, symbols, months. Data only."""


def table(entries: str) -> dict[str, str]:
    """Read "written spoken words, written spoken words"."""
    return dict(entry.split(maxsplit=1) for entry in entries.split(","))


def word_set(words: str) -> frozenset[str]:
    """Return the words of a text that has spaces between them."""
    return frozenset(words.split())


# Something always follows these: their dot never ends a sentence. Some titles are common without a dot.
COURTESY = table("Dr doctor, Mr mister, Mrs missus, Ms ms, Prof professor")
TITLES = COURTESY | table(
    "Gen general, Col colonel, Sgt sergeant, Capt captain, Lt lieutenant, Maj major, Cmdr commander, "
    "Rev reverend, Hon honorable, Gov governor, Sen senator, Rep representative, Pres president, Mt "
    "mount, Ft fort, Adm admiral, Pvt private, Cpl corporal, Fr father, Supt superintendent, dr doctor, "
    "mr mister, mrs missus, prof professor, e.g for example, i.e that is, E.g for example, I.e that is, "
    "vs versus, approx approximately, cf compare, ca circa"
)
# The dot of these also ends the sentence when a new one follows.
ABBREVIATIONS = table(
    "etc et cetera, dept department, Dept department, est established, Ave avenue, Blvd boulevard, Rd "
    "road, Jr junior, Sr senior, Inc incorporated, Ltd limited, Co company, Corp corporation, Bros "
    "brothers, Ph.D p h d, al al, Univ university, misc miscellaneous, govt "
    "government, Govt government, Hwy highway, ext extension"
)
# These mean it only before a number.
NUMBERED = table(
    "No number, no number, Nos numbers, nos numbers, Fig figure, fig figure, Figs figures, Vol volume, "
    "vol volume, p page, pp pages, Ch chapter, ch chapter, Sec section, sec section, Eq equation, eq "
    "equation, Art article"
)

_MONTHS = "january february march april may june july august september october november december"
MONTH_NAMES = ("", *_MONTHS.split(" "))
SHORT_MONTHS = {name[:3].title(): i for i, name in enumerate(MONTH_NAMES) if len(name) > 4} | {"Sept": 9}
MONTHS = SHORT_MONTHS | {name.title(): number for number, name in enumerate(MONTH_NAMES) if number}

# Singular names; the plural is regular unless given after a slash.
UNITS = table(
    "km kilometer, cm centimeter, mm millimeter, nm nanometer, μm micrometer, m meter, mi mile, yd "
    "yard, ft foot/feet, kg kilogram, g gram, mg milligram, μg microgram, lb pound, lbs pound, oz "
    "ounce, L liter, l liter, ml milliliter, mL milliliter, cl centiliter, mph mile per hour/miles per "
    "hour, s second, ms millisecond, km/h kilometer per hour/kilometers per hour, kph kilometer per "
    "hour/kilometers per hour, kmh kilometer per hour/kilometers per hour, m/s meter per second/meters "
    "per second, Mbps megabit per second/megabits per second, Gbps gigabit per second/gigabits per "
    "second, fps frame per second/frames per second, rpm revolution per minute/revolutions per minute, "
    "bpm beat per minute/beats per minute, sec second, secs second, min minute, mins minute, h hour, hr "
    "hour, hrs hour, Hz hertz/hertz, kHz kilohertz/kilohertz, MHz megahertz/megahertz, GHz "
    "gigahertz/gigahertz, W watt, kW kilowatt, MW megawatt, GW gigawatt, kWh kilowatt hour, V volt, kV "
    "kilovolt, mA milliamp, mAh milliamp hour, dB decibel, KB kilobyte, kB kilobyte, MB megabyte, GB "
    "gigabyte, TB terabyte, kcal kilocalorie, cal calorie, ha hectare, ppm part per million/parts per "
    "million, px pixel, °C degree celsius/degrees celsius, ° degree, °F degree fahrenheit/degrees "
    "fahrenheit, % percent/percent, ¢ cent"
)
# Units that are words or names of something else when a space stands before them.
TIGHT_UNITS = frozenset({"s", "l", "L", "h", "V", "W", "ha", "cal", "¢"})

# One unit / many / the hundredth part / hundredths.
CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
    "¥": ("yen", "yen", "sen", "sen"),
    "₹": ("rupee", "rupees", "paisa", "paise"),
}
MAGNITUDES = table(
    "k thousand, K thousand, m million, M million, bn billion, B billion, b billion, tn trillion, T "
    "trillion, thousand thousand, million million, billion billion, trillion trillion"
)

SYMBOLS = table(
    "& and, @ at, % percent, + plus, = equals, / slash, # hash, \\ backslash, ° degrees, × times, ÷ "
    "divided by, ± plus or minus, ≈ about, ≠ is not equal to, ≤ at most, ≥ at least, ∞ infinity, √ "
    "square root of, § section, © copyright, $ dollars, £ pounds, € euros, ¥ yen, ₹ rupees, ¢ cents, → "
    "to"
)
# Between digits these mean arithmetic; elsewhere they are decoration.
ARITHMETIC = table("* times, < is less than, > is greater than, ^ to the power of, - minus, x by")
IN_ADDRESSES = table(
    "@ at, . dot, / slash, - dash, _ underscore, : colon, ? question mark, = equals, & and, # hash, % "
    "percent, + plus, ~ tilde"
)

# Written in capitals and said as a word.
ACRONYMS = word_set(
    "NASA NATO UNESCO UNICEF OPEC AIDS LASER RADAR SCUBA SONAR FIFA UEFA COVID SARS NAFTA ASEAN PIN RAM "
    "ROM SIM GIF SWAT CAPTCHA LIDAR NASDAQ POTUS SCOTUS YOLO LOL OSHA FEMA HIPAA CAD GUI DOS BASIC VAT "
    "MIDI ZIP"
)
# Spelt although it could be read as a word, and spelt even in a shouted sentence.
INITIALISMS = word_set("USA UK EU UN FBI CIA IBM AI UCLA UAE API IOS ATM USB IRS EEG ECG URL UFO ISO IEEE")
SHORT_WORDS = word_set(
    "A I AM AN AND ANY ARE AS ASK AT BAD BE BIG BUT BY CAN DAY DID DO END FOR GET GO GOD HAD HAS HE HER "
    "HEY HI HIM HIS HOW IF IN IS ITS LET MAN MAY ME MY NEW NO NOR NOT NOW OF OFF OH OLD ON ONE OR OUR "
    "OUT OWN RUN SAD SAY SEE SHE SO THE TO TOO TOP TWO UP USE WAR WAS WAY WE WHO WHY WIN WOW YES YET "
    "YOU"
)
SENTENCE_STARTS = (
    "The|This|That|These|Those|There|They|Then|He|She|It|We|You|I|His|Her|Its|Our|Their|My|But|And|So|In|On|At|If|When|"
    "What|Who|Why|How|As|For|A|An|After|Before|However|Today|Yes|No|Not|One|Some|Many|Most|All|To|With|From|By"
)
NUMBERED_NOUNS = (
    "Chapter|Part|Book|Volume|Act|Scene|Section|War|Article|Phase|Type|Stage|Level|Appendix|Class|Title|Episode|Season|"
    "Bowl|Apollo|Mark|Figure|Table|Canto|Grade|Division"
)
MONARCHS = (
    "Henry|Louis|Elizabeth|Charles|George|Edward|James|William|Richard|Philip|Felipe|Frederick|Francis|Alexander|"
    "Nicholas|Catherine|Peter|Paul|John|Pius|Benedict|Leo|Gregory|Clement|Innocent|Urban|Napoleon|Wilhelm|Ivan|"
    "Ferdinand|Leopold|Christian|Harald|Gustav|Mary|Margaret|Ramses|Ptolemy|Cleopatra|Queen|King"
)
NAME_STARTS = ("Mc", "Mac", "De", "Di", "La", "Le", "Van", "Von", "Fitz")
FRONTED = frozenset({"'em", "'tis", "'twas", "'cause", "'bout", "'til"})
SPECIAL_WORDS = table(
    "PhD p h d, PhDs p h d's, iOS i o s, macOS mac o s, OK okay, Ok okay, BSc b s c, MSc m s c"
)
