"""The rows, made by INSERT ... SELECT inside PostgreSQL: a gigabyte through Python would take many minutes.

Every value comes from the position of the row and an md5 of the seed; nothing from random() or the clock. The ids are
given here, counted on from what is there, so that the sequences' history does not matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.hashers import PBKDF2PasswordHasher

from erp_site.seeding import words

FIRST_DAY = "2021-01-01"
DAYS = 2000  # up to 2026-06-23
PASSWORD = "erp"

# Measured with PostgreSQL 18, indexes and all: what the tables and indexes take before the first thousand rows,
# and what one invoice brings with its lines, bookings, mail and audit events.
FIXED_BYTES = 800_000
BYTES_PER_INVOICE = 2_880

TABLES = (
    "companies_company",
    "companies_user",
    "billing_customer",
    "billing_invoice",
    "billing_invoiceline",
    "ledger_ledgeraccount",
    "ledger_ledgerentry",
    "attachments_attachment",
    "outbox_outboxmessage",
    "audit_auditevent",
)


@dataclass(frozen=True)
class Plan:
    """How many rows of what, and the highest id that each table had before."""

    seed: int
    companies: int
    customers_each: int
    invoices: int
    base: dict[str, int]


def plan(cursor: Any, seed: int, megabytes: int, companies: int) -> Plan:
    """The number of rows that grows the database by so many megabytes."""
    base = {}
    for table in TABLES:
        cursor.execute(f"SELECT coalesce(max(id), 0) FROM {table}")
        base[table] = cursor.fetchone()[0]
    # A multiple of four, because the lines repeat their pattern every four invoices.
    invoices = max(companies, (megabytes * 2**20 - FIXED_BYTES) // BYTES_PER_INVOICE) // 4 * 4 + 4
    return Plan(seed, companies, max(5, invoices // 20 // companies), invoices, base)


def insert(cursor: Any, plan: Plan) -> None:
    """All rows but the attachments, in the transaction of the caller."""
    # The rows fit together by construction; checking the foreign keys one by one would take most of the time.
    cursor.execute("SET LOCAL session_replication_role = replica")
    for statement in _statements(plan):
        cursor.execute(statement)
    cursor.execute("SET LOCAL session_replication_role = origin")


def finish(cursor: Any) -> None:
    """Moves every identity past the ids that were given by hand, and counts the rows for the planner."""
    for table in TABLES:
        cursor.execute(
            f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table} HAVING max(id) > 0"
        )
    cursor.execute("ANALYZE " + ", ".join(TABLES))


def _series(plan: Plan, label: str, count: int) -> str:
    """The positions 1 to count as g, each with 63 bits of hash as h.

    OFFSET 0 keeps the planner from computing the hash anew wherever h is named.
    """
    bits = f"('x' || substr(md5('{plan.seed}:{label}:' || g), 1, 16))::bit(64)::bigint"
    return f"(SELECT g, {bits} & 9223372036854775807 AS h FROM generate_series(1, {count}) g OFFSET 0) s"


def _pick(choices: Sequence[str], shift: int | str) -> str:
    """One of 16 or 64 words, by the bits of h from shift on."""
    array = ", ".join("'" + word.replace("'", "''") + "'" for word in choices)
    return f"(ARRAY[{array}])[1 + ((h >> {shift}) & {len(choices) - 1})::int]"


def _statements(plan: Plan) -> list[str]:
    base, companies, invoices = plan.base, plan.companies, plan.invoices
    company = base["companies_company"] + 1
    user, account = base["companies_user"], base["ledger_ledgeraccount"]
    customer, invoice, line = base["billing_customer"], base["billing_invoice"], base["billing_invoiceline"]
    # Position g of anything that goes round the companies belongs to this one.
    owner = f"{company} + (g - 1) % {companies}"
    # Invoices come evenly over the years, during the working day.
    day = f"(DATE '{FIRST_DAY}' + ((g - 1)::bigint * {DAYS} / {invoices})::int)"
    moment = f"({day} + TIME '07:00' + (h & 32767) * INTERVAL '1 second') AT TIME ZONE 'UTC'"
    password = PBKDF2PasswordHasher().encode(PASSWORD, f"salt{plan.seed}", iterations=1000)
    accounts = ", ".join(f"({n}, '{code}', '{name}')" for n, (code, name) in enumerate(words.ACCOUNT, 1))
    return [
        f"""
        INSERT INTO companies_company (id, name, slug, country, vat_id, iban, logo, created_at, last_invoice_number,
                                       preferences)
        SELECT {company} - 1 + g, {_pick(words.LAST, 0)} || ' ' || {_pick(words.TRADE, 8)} || ' ' ||
               {_pick(words.FORM, 16)}, 'company-' || {company} - 1 + g,
               (ARRAY['DE', 'CH', 'AT', 'DE'])[1 + (g - 1) % 4],
               'DE' || lpad((h % 1000000000)::text, 9, '0'), 'DE' || lpad(h::text, 20, '0'),
               sha256(h::text::bytea), '{FIRST_DAY} 06:00+00', ({invoices} - g + {companies}) / {companies},
               jsonb_build_object('language', 'de', 'reminders', jsonb_build_array(14, 28, 42), 'vat', 19)
        FROM {_series(plan, "company", companies)}
        """,
        f"""
        INSERT INTO companies_user (id, password, is_superuser, username, first_name, last_name, email, is_staff,
                                    is_active, date_joined, company_id)
        SELECT {user} + g, '{password}', false, 'user' || {user} + g,
               {_pick(words.FIRST, 0)}, {_pick(words.LAST, 4)}, 'user' || {user} + g || '@erp.example',
               false, true, '{FIRST_DAY} 06:30+00', {owner}
        FROM {_series(plan, "user", 3 * companies)}
        """,
        f"""
        INSERT INTO django_session (session_key, session_data, expire_date)
        SELECT md5('{plan.seed}:session:{company}:' || g), md5('a' || h) || md5('b' || h) || md5('c' || h),
               TIMESTAMPTZ '2026-07-01 00:00+00' + g * INTERVAL '1 minute'
        FROM {_series(plan, "session", 10 * companies)}
        """,
        f"""
        INSERT INTO billing_customer (id, company_id, number, name, street, postcode, city, email, tags, notes,
                                      created_at)
        SELECT {customer} + g, {owner}, 10000 + (g - 1) / {companies},
               {_pick(words.LAST, 0)} || ' ' || {_pick(words.TRADE, 6)} || ' ' || {_pick(words.FORM, 10)},
               {_pick(words.STREET, 14)} || ' ' || 1 + h % 180, lpad((h % 99999)::text, 5, '0'),
               {_pick(words.CITY, 18)}, 'rechnung+' || {customer} + g || '@kunde-' || h % 10000 || '.example',
               ARRAY[{_pick(words.TAG, 22)}, {_pick(words.TAG, 26)}],
               CASE WHEN h & 3 = 0 THEN {_pick(words.SENTENCE, 30)} || E'\\n' || {_pick(words.SENTENCE, 34)}
                    ELSE '' END,
               '{FIRST_DAY} 06:45+00'
        FROM {_series(plan, "customer", companies * plan.customers_each)}
        """,
        # Ten lines for every four invoices: 1, 2, 4 and 3 of them.
        f"""
        INSERT INTO billing_invoiceline (id, company_id, invoice_id, position, description, quantity, unit_price)
        SELECT {line} + g, {company} + (i - 1) % {companies}, {invoice} + i,
               (ARRAY[1, 1, 2, 1, 2, 3, 4, 1, 2, 3])[1 + (g - 1) % 10],
               {_pick(words.ADJECTIVE, 0)} || ' ' || {_pick(words.PRODUCT, 4)} || ', Art. ' ||
               upper(to_hex((h >> 10) & 16777215)) ||
               CASE WHEN h & 3 = 0 THEN ' / ' || {_pick(words.SENTENCE, 34)} ELSE '' END,
               1 + ((h >> 40) & 31), ((h >> 12) % 250000 + 99) / 100.0
        FROM (SELECT s.*, 4 * ((g - 1) / 10) + (ARRAY[1, 2, 2, 3, 3, 3, 3, 4, 4, 4])[1 + (g - 1) % 10] AS i
              FROM {_series(plan, "line", invoices // 4 * 10)} OFFSET 0) l
        """,
        f"""
        INSERT INTO billing_invoice (id, company_id, customer_id, number, issued_on, due_date, status, net, tax,
                                     created_at, currency)
        SELECT {invoice} + g, {owner},
               {customer} + 1 + (g - 1) % {companies} + {companies} * (h % {plan.customers_each}),
               'R' || lpad(((g - 1) / {companies} + 1)::text, 7, '0'), {day}, {day} + 14,
               CASE WHEN g > {invoices} * 0.95 THEN 'open' WHEN h % 50 = 0 THEN 'cancelled' ELSE 'paid' END,
               net, round(net * 0.19, 2), {moment},
               CASE (g - 1) % {companies} % 4 WHEN 1 THEN 'CHF' ELSE 'EUR' END
        FROM {_series(plan, "invoice", invoices)}
        JOIN (SELECT invoice_id - {invoice} AS g, sum(amount) AS net FROM billing_invoiceline
              WHERE id > {line} GROUP BY invoice_id) l USING (g)
        ORDER BY g
        """,
        f"""
        INSERT INTO ledger_ledgeraccount (id, company_id, code, name)
        SELECT {account} + (g - 1) * {len(words.ACCOUNT)} + n, {company} - 1 + g, code, name
        FROM generate_series(1, {companies}) g, (VALUES {accounts}) a (n, code, name)
        """,
        # Receivable against revenue and tax.
        f"""
        INSERT INTO ledger_ledgerentry (id, company_id, account_id, invoice_id, voucher, booked_on, text, debit, credit)
        SELECT {base["ledger_ledgerentry"]} + 3 * (id - {invoice} - 1) + n, company_id,
               {account} + (company_id - {company}) * {len(words.ACCOUNT)} + (ARRAY[2, 6, 4])[n], id,
               'V' || number, issued_on, (ARRAY['Forderung ', 'Erlös ', 'USt 19 % '])[n] || number,
               CASE n WHEN 1 THEN gross ELSE 0 END, CASE n WHEN 1 THEN 0 WHEN 2 THEN net ELSE tax END
        FROM (SELECT * FROM billing_invoice WHERE id > {invoice} ORDER BY id) i, generate_series(1, 3) n
        """,
        # Mails: most short, every sixteenth with a long text that PostgreSQL stores out of line.
        f"""
        INSERT INTO outbox_outboxmessage (id, company_id, recipient, subject, body, headers, created_at, sent_at)
        SELECT {base["outbox_outboxmessage"]} + g, {owner}, 'rechnung+' || h % 100000 || '@kunde.example',
               'Rechnung R' || lpad(((g - 1) / {companies} + 1)::text, 7, '0'),
               'Guten Tag ' || {_pick(words.FIRST, 0)} || ' ' || {_pick(words.LAST, 4)} || E',\\n\\n' ||
               {_pick(words.SENTENCE, 10)} || ' ' || {_pick(words.SENTENCE, 14)} || ' ' ||
               {_pick(words.SENTENCE, 18)} || E'\\n' || 'Ref. ' || upper(md5(h::text)) || E'\\n' ||
               {_pick(words.SENTENCE, 22)} ||
               CASE WHEN h & 15 = 0 THEN (
                   SELECT string_agg(E'\\n' || n || '. ' || {_pick(words.ADJECTIVE, "(n % 53)")} || ' ' ||
                                     {_pick(words.PRODUCT, "(n * 7 % 53)")} || ' ' ||
                                     round((h >> (n * 5 % 41)) % 100000 / 100.0, 2) || ' EUR', '')
                   FROM generate_series(1, 150) n) ELSE '' END,
               jsonb_build_object('Message-ID', '<' || md5(g || ':' || h) || '@erp.example>', 'X-Priority', h & 3),
               {moment}, CASE WHEN g > {invoices} * 0.99 THEN NULL ELSE {moment} + INTERVAL '90 seconds' END
        FROM {_series(plan, "mail", invoices)}
        """,
        f"""
        INSERT INTO audit_auditevent (id, company_id, occurred_at, actor, action, object_type, object_id, detail,
                                      digest)
        OVERRIDING SYSTEM VALUE
        SELECT {base["audit_auditevent"]} + 2 * (g - 1) + n, {owner}, {moment} + n * INTERVAL '1 second',
               'user' || {user} + 1 + (g - 1) % {companies}, 'invoice.' || {_pick(words.VERB, 0)},
               'invoice', {invoice} + g,
               jsonb_build_object('ip', '10.' || (h & 255) || '.' || ((h >> 8) & 255) || '.' || n,
                                  'agent', {_pick(words.BROWSER, 20)}, 'request', md5(h || ':' || n),
                                  'fields', jsonb_build_array({_pick(words.VERB, 24)}, {_pick(words.TAG, 28)})),
               sha256((h || ':' || n)::bytea)
        FROM {_series(plan, "audit", invoices)}, generate_series(1, 2) n
        """,
    ]
