
CREATE TABLE runs (run INTEGER PRIMARY KEY, name TEXT UNIQUE, digest TEXT, experiment TEXT, verdict TEXT,
  exit_code INTEGER, baseline TEXT, alpha REAL, items INTEGER, items_digest TEXT, rehearsal INTEGER);
CREATE TABLE facts (run INTEGER, key TEXT, value TEXT, PRIMARY KEY (run, key)) WITHOUT ROWID;
CREATE TABLE candidates (run INTEGER, candidate TEXT, verdict TEXT, reasons TEXT);
CREATE TABLE strata (run INTEGER, candidate TEXT, items TEXT, {figures});
CREATE TABLE tail_rates (run INTEGER, candidate TEXT, {rates});
CREATE TABLE items (item INTEGER PRIMARY KEY, digest TEXT UNIQUE, id TEXT, slice TEXT, stratum TEXT, cluster TEXT);
CREATE TABLE answers (run INTEGER, variant TEXT, item INTEGER, score REAL, PRIMARY KEY (run, variant, item))
  WITHOUT ROWID;
CREATE VIEW trend AS SELECT slice, stratum, candidate, strata.items, run, name, n, delta, low, high, margin, gating,
  strata.verdict FROM strata JOIN runs USING (run) ORDER BY slice, stratum, candidate, strata.items, run;
