"""The vocabulary of the sample. Lists of 16 or 64, so that four or six bits of a hash choose a word."""


def _list(text: str) -> list[str]:
    return text.split("|")


FIRST = _list("Anna|Jürgen|Zoë|Matthias|Käthe|Søren|Lukas|Élodie|Marta|Günther|Hélène|Tomasz|Aylin|Björn|Chiara|Renée")
LAST = _list(
    "Müller|Schmidt|Schäfer|Weiß|Bauer|Krüger|Köhler|Lefèvre|Kowalski|Jørgensen|Öztürk|Rossi|Novák|Sánchez|Keller|Vogt|"
    "Brandt|Lang|Fuchs|Scholz|Huber|Graf|Winter|Sommer|Busch|Haas|Böhm|Ziegler|Kuhn|Pohl|Engel|Horn|"
    "Arnold|Sauer|Ott|Seidel|Heinrich|Götz|Jäger|Thomas|Roth|Beck|Lorenz|Baumann|Franke|Albrecht|Schuster|Simon|"
    "Ludwig|Böttcher|Peters|Stein|Jung|Möller|Berger|Martin|Friedrich|Scholl|Keßler|Großmann|Dietrich|Ebert|Krämer|Wolf"
)
TRADE = _list(
    "Maschinenbau|Elektrotechnik|Spedition|Bäckerei|Holzbau|Gartenbau|Druckerei|Medizintechnik|Großhandel|"
    "Feinmechanik|Catering|Gebäudetechnik|Textil|Fördertechnik|Verlag|Kälteanlagen"
)
FORM = _list("GmbH|AG|KG|GmbH & Co. KG|e.K.|OHG|SE|S.à r.l.") * 2
STREET = _list(
    "Hauptstraße|Bahnhofstraße|Gartenweg|Am Mühlbach|Lindenallee|Schulgasse|Industriestraße|Kirchplatz|Rosenweg|"
    "Goethestraße|Römerring|Hafenkai|Bergstraße|Wiesengrund|Marktplatz|Rue de l'Église"
)
CITY = _list(
    "Berlin|Zürich|Wien|Köln|München|Lübeck|Görlitz|Straßburg|Basel|Graz|Aarau|Würzburg|Kiel|Linz|Fürth|Saarbrücken"
)
TAG = _list(
    "retail|wholesale|export|öffentlich|prepaid|vip|newsletter|blocked|eu|non-eu|partner|reseller|school|"
    "seasonal|framework contract|dunning"
)
ADJECTIVE = _list(
    "verzinkt|gehärtet|spare|custom|wasserdicht|compact|heavy-duty|eloxiert|certified|isoliert|flexible|refurbished|"
    "hitzebeständig|stackable|pulverbeschichtet|standard"
)
PRODUCT = _list(
    "hex bolt|Dichtungsring|bearing|Kugelhahn|pump housing|Schaltschrank|cable duct|Förderband|valve|Zahnriemen|"
    "filter cartridge|Hydraulikschlauch|motor 4 kW|Sensor|bracket|Klemmleiste|flange DN80|Lagerbock|relay|Netzteil|"
    "pallet|Verpackungsfolie|toner|Kopierpapier|office chair|Regalboden|lamp|Arbeitshandschuhe|safety helmet|Leiter|"
    "consulting hour|Montagestunde|maintenance visit|Fahrtkosten|licence per seat|Schulungstag|hosting|Wartungsvertrag|"
    "drill|Akkuschrauber|welding wire|Schleifscheibe|grease 5 l|Hydrauliköl|coolant|Reinigungsmittel|gasket|Keilriemen|"
    "coupling|Kettenrad|gearbox|Frequenzumrichter|touch panel|Steuerung|cable 3x1.5|Kabelbinder|fuse|Sicherungsautomat|"
    "distribution board|Steckdose|antenna|Patchkabel|switch 24 port|Serverschrank"
)
SENTENCE = _list(
    "Please find attached our invoice for the goods delivered last week.|"
    "Bitte überweisen Sie den Betrag unter Angabe der Rechnungsnummer.|"
    "The remaining positions of your order will follow separately.|"
    "Die Ware bleibt bis zur vollständigen Bezahlung unser Eigentum.|"
    "Payment within ten days entitles you to two per cent discount.|"
    "Für Rückfragen steht Ihnen unsere Buchhaltung gern zur Verfügung.|"
    "We have noted your new delivery address and will use it from now on.|"
    "Nous vous remercions de votre confiance et restons à votre disposition.|"
    "The hours of our technicians are listed in the enclosed report.|"
    "Ihre Bestellung wurde am Vortag unserem Spediteur übergeben.|"
    "As agreed by telephone we credit the damaged parts in full.|"
    "Die Preise verstehen sich zuzüglich der gesetzlichen Umsatzsteuer.|"
    "Our bank details have not changed; please ignore mails that claim so.|"
    "Der nächste Wartungstermin ist für das kommende Quartal vorgemerkt.|"
    "This message was generated automatically and is valid without signature.|"
    "Wir wünschen Ihnen und Ihren Mitarbeitern eine erfolgreiche Woche."
)
VERB = _list(
    "created|changed|sent|printed|approved|exported|paid|reminded|cancelled|archived|opened|booked|matched|imported|"
    "corrected|released"
)
BROWSER = (
    _list(
        "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0|"
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/126.0 Safari/537.36|"
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_5) AppleWebKit/605.1.15 Version/17.5 Safari/605.1.15|"
        "erp-import/1.4 (batch)"
    )
    * 4
)
ACCOUNT = (
    ("1200", "Bank"),
    ("1400", "Forderungen aus Lieferungen und Leistungen"),
    ("1600", "Verbindlichkeiten"),
    ("1776", "Umsatzsteuer"),
    ("4930", "Bürobedarf"),
    ("8400", "Erlöse"),
)
