-- The queries of changes.py. ?1 is the earlier run, ?2 the newer one; in `newest` ?1 are names of runs.

-- name: pairs
SELECT n.candidate, n.slice, n.stratum, max(o.gating, n.gating) AS gating, n.margin, o.verdict AS before,
  n.verdict AS after
  FROM strata o JOIN strata n USING (candidate, slice, stratum, items) WHERE o.run = ?1 AND n.run = ?2;

-- name: rates
SELECT n.candidate, n.slice, n.stratum, n.kind, o.verdict AS before, n.verdict AS after
  FROM tail_rates o JOIN tail_rates n USING (candidate, slice, stratum, kind)
  JOIN strata p ON (p.run, p.candidate, p.slice, p.stratum) = (o.run, n.candidate, n.slice, n.stratum)
  JOIN strata q ON (q.run, q.candidate, q.slice, q.stratum, q.items) =
    (n.run, n.candidate, n.slice, n.stratum, p.items)
  WHERE o.run = ?1 AND n.run = ?2 AND n.verdict IS NOT NULL AND o.verdict IS NOT NULL;

-- name: scores
SELECT o.score AS before, n.score AS after, cluster FROM answers o JOIN answers n USING (variant, item)
  JOIN items USING (item) WHERE o.run = ?1 AND n.run = ?2 AND variant = ?3 AND slice = ?4 AND stratum = ?5
  AND o.score IS NOT NULL AND n.score IS NOT NULL ORDER BY item;

-- name: left_out
SELECT DISTINCT slice || '/' || stratum FROM strata o WHERE run = ?1 AND gating AND NOT EXISTS
  (SELECT 1 FROM strata n WHERE n.run = ?2 AND n.slice = o.slice AND n.stratum = o.stratum AND n.items = o.items)
  UNION ALL SELECT candidate FROM candidates WHERE run = ?1 AND candidate NOT IN
  (SELECT candidate FROM strata WHERE run = ?2)
  UNION SELECT candidate FROM candidates WHERE run IN (?1, ?2) AND verdict = 'not_judged'
  UNION SELECT slice || '/' || stratum || printf(' (%d items unanswered, then %d)', n.unanswered, o.unanswered)
  FROM strata o JOIN strata n USING (candidate, slice, stratum, items) WHERE o.run = ?1 AND n.run = ?2
  AND (o.gating OR n.gating) AND n.unanswered > o.unanswered + max(1, 0.01 * n.items_planned)
  UNION SELECT substr(key, 15) || ' (taken away since)' FROM facts o WHERE run = ?1 AND NOT EXISTS
  (SELECT 1 FROM facts n WHERE n.run = ?2 AND n.key = o.key)
  AND (key = 'config.policy.pooled_margin' OR key GLOB 'config.policy.quantities.*')
  UNION SELECT candidate || ' ' || slice || '/' || stratum || ' ' || kind || ' (it has no tolerance now)'
  FROM tail_rates o WHERE run = ?1 AND tolerance IS NOT NULL AND EXISTS (SELECT 1 FROM strata n WHERE n.run = ?2
  AND n.candidate = o.candidate) AND NOT EXISTS (SELECT 1 FROM tail_rates n WHERE n.run = ?2 AND tolerance IS NOT NULL
  AND (n.candidate, n.slice, n.stratum, n.kind) = (o.candidate, o.slice, o.stratum, o.kind))
  UNION SELECT 'the baseline ' || o.baseline || ' (now ' || n.baseline || ')' FROM runs o JOIN runs n
  ON (o.run, n.run) = (?1, ?2) AND o.baseline <> n.baseline
  UNION SELECT name || ' (a rehearsal)' FROM runs WHERE run IN (?1, ?2) AND rehearsal;

-- name: loosened
SELECT slice || '/' || stratum || iif(n.gating, printf(' (margin %.4g, then %.4g points)',
  100 * n.margin, 100 * o.margin), iif(o.gating, ' (advisory now)', ' (advisory then too, gated earlier)'))
  FROM strata o JOIN strata n USING (candidate, slice, stratum) WHERE o.run = ?1 AND n.run = ?2 AND
  iif(o.gating, NOT n.gating OR n.margin > o.margin + 1e-9, NOT n.gating AND EXISTS
    (SELECT 1 FROM strata e JOIN runs r USING (run) JOIN runs s ON s.run = ?2 AND s.experiment = r.experiment
    WHERE e.gating AND e.run < ?1 AND (e.candidate, e.slice, e.stratum) = (n.candidate, n.slice, n.stratum)))
  UNION SELECT slice || '/' || stratum || ' ' || kind || printf(' (tolerance %.4g %%, then %.4g %%)', 100 * n.tolerance,
  100 * o.tolerance) FROM tail_rates o JOIN tail_rates n USING (candidate, slice, stratum, kind)
  WHERE o.run = ?1 AND n.run = ?2 AND n.tolerance > o.tolerance
  UNION SELECT substr(key, 15) || printf(' (%s, then %s)', n.value, o.value) FROM facts o JOIN facts n USING (key)
  WHERE o.run = ?1 AND n.run = ?2 AND n.value + 0 > o.value + 0 AND (key = 'config.policy.pooled_margin'
  OR key GLOB 'config.policy.quantities.*' OR key GLOB 'config.policy.latency.*');

-- name: words
SELECT candidate FROM candidates o JOIN candidates n USING (candidate)
  WHERE o.run = ?1 AND n.run = ?2 AND o.verdict = 'pass' AND n.verdict = 'fail';

-- name: steps
SELECT run, name, lag(run) OVER (PARTITION BY experiment ORDER BY run) AS before FROM runs ORDER BY run DESC;

-- name: newest
SELECT max(run) AS run, name FROM runs WHERE name IN (SELECT value FROM json_each(?1)) GROUP BY experiment ORDER BY run;

-- name: facts
SELECT key, max(CASE run WHEN ?1 THEN value ELSE '' END) AS before,
  max(CASE run WHEN ?2 THEN value ELSE '' END) AS after
  FROM facts WHERE run IN (?1, ?2) GROUP BY key HAVING before != after ORDER BY key;

-- name: items
WITH asked AS (SELECT DISTINCT run, item FROM answers WHERE run IN (?1, ?2)),
  places AS (SELECT item, min(run = ?1) AS old, count(*) AS runs FROM asked GROUP BY item)
  SELECT slice, sum(runs = 2) AS shared, sum(runs = 1 AND old) AS removed, sum(runs = 1 AND NOT old) AS added
  FROM places JOIN items USING (item) GROUP BY slice HAVING removed + added > 0 ORDER BY slice;
