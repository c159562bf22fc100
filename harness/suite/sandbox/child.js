// The sandbox's own side for JavaScript: one process holds the untrusted code, another the tests, as in child.py,
// which has shut this process away before node took its place. Only values go between the two: JSON with a tag for what
// JSON lacks. The process with the tests alone holds the pipe on which a success can be said.
'use strict';
const fs = require('fs');
const vm = require('vm');

const LONGEST = 16_000_000;
const [role, told] = [process.argv[2], JSON.parse(process.argv[3])];

// Names that the tests never take from the code: whatever node defines for everyone.
// Those of Object.prototype are global names too.
const INHERITED = Object.getOwnPropertyNames(Object.prototype);
const OURS = new Set([...Object.getOwnPropertyNames(globalThis), ...INHERITED, ...require('module').builtinModules]);
for (const name of ['require', 'module', 'exports', 'arguments']) OURS.add(name);
// What JavaScript calls of its own accord when it compares or prints an object: a comparison asks no code.
const HOOKS = new Set([...INHERITED, 'toJSON', 'then']);
const ERRORS = { EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError };

class Gone extends Error {}

function send(pipe, message) {
  const body = Buffer.from(JSON.stringify(message));
  if (body.length > LONGEST) throw new RangeError('the value is too long to hand over');
  const length = Buffer.alloc(4);
  length.writeUInt32BE(body.length);
  let whole = Buffer.concat([length, body]);
  while (whole.length) whole = whole.subarray(fs.writeSync(pipe, whole));
}

function exactly(pipe, count) {
  const whole = Buffer.alloc(count);
  for (let have = 0; have < count; ) {
    const got = fs.readSync(pipe, whole, have, count - have, null);
    if (!got) throw new Gone('ended');
    have += got;
  }
  return whole;
}

function receive(pipe) {
  const length = exactly(pipe, 4).readUInt32BE();
  if (length > LONGEST) throw new Gone('a frame is too long');
  const body = exactly(pipe, length).toString();
  try {
    return JSON.parse(body);
  } catch (error) {
    throw new Gone('a frame is not JSON');
  }
}

function encoded(value, other) {
  if (value === undefined) return { undefined: 0 };
  if (value === null || typeof value === 'boolean' || typeof value === 'string') return value;
  if (typeof value === 'number')
    return Number.isFinite(value) && !Object.is(value, -0) ? value : { number: Object.is(value, -0) ? '-0' : String(value) };
  if (typeof value === 'bigint') return { bigint: String(value) };
  if (Array.isArray(value)) return Array.from(value, (one) => encoded(one, other));
  if (value instanceof Map) return { map: [...value].map((pair) => encoded(pair, other)) };
  if (value instanceof Set) return { set: [...value].map((one) => encoded(one, other)) };
  if (value instanceof Date) return { date: value.getTime() };
  const above = typeof value === 'object' ? Object.getPrototypeOf(value) : 0;
  if (above === null || above === Object.prototype)
    return { object: Object.entries(value).map(([key, one]) => [key, encoded(withOwner(one, value), other)]) };
  return other(value);
}

// A method of an object that crosses is called with it as `this`.
function withOwner(one, owner) {
  return typeof one === 'function' ? Function.prototype.bind.call(one, owner) : one;
}

const BACK = {
  undefined: () => undefined,
  number: (inner) => Number(inner),
  bigint: (inner) => BigInt(inner),
  map: (inner, other) => new Map(inner.map((pair) => pair.map((one) => decoded(one, other)))),
  set: (inner, other) => new Set(inner.map((one) => decoded(one, other))),
  date: (inner) => new Date(inner),
  object: (inner, other) => {
    const made = {};
    for (const [name, one] of inner) {
      const key = String(name); // code that writes its frames itself may send a list, whose text is then the key
      const value = decoded(one, other);
      if (!(HOOKS.has(key) && typeof value === 'function'))
        Object.defineProperty(made, key, { value, writable: true, enumerable: true, configurable: true });
    }
    return made;
  },
};

function decoded(value, other) {
  if (Array.isArray(value)) return value.map((one) => decoded(one, other));
  if (value === null || typeof value !== 'object') return value;
  const [[name, inner]] = Object.entries(value);
  return Object.hasOwn(BACK, name) ? BACK[name](inner, other) : other(value);
}

function nameOf(error) {
  return error instanceof Error ? String(error.name).slice(0, 80) : 'Error';
}

// The untrusted code: whatever it says is taken as a value, never as a verdict.
function solve(program) {
  const [inbox, outbox] = [told.inbox, told.outbox];
  const kept = [];
  const keep = (value) => (typeof value === 'function' ? { kept: kept.push(value) - 1 } : { foreign: 0 });
  send(outbox, { layers: told.layers });
  let script;
  try {
    script = new vm.Script(program.code, { filename: 'solution.js' });
  } catch (error) {
    return send(outbox, { parses: false, why: nameOf(error) });
  }
  send(outbox, { parses: true });
  const names = {};
  try {
    globalThis.require = (name) => (name === 'js-md5' ? md5 : require(name));
    globalThis.module = { exports: {} };
    globalThis.exports = globalThis.module.exports;
    script.runInThisContext();
    for (const name of program.names) {
      const found = OURS.has(name) ? undefined : defined(name);
      if (found !== undefined) names[name] = encoded(found, keep);
    }
  } catch (error) {
    return send(outbox, { runs: false, why: nameOf(error) });
  }
  send(outbox, { runs: true, names });
  for (;;) {
    const request = receive(inbox);
    send(outbox, answer(request, kept, keep));
  }
}

// What the code defines or exports under a name; undefined for words of the language too, which the tests also use.
function defined(name) {
  try {
    const own = vm.runInThisContext(`typeof ${name} === 'undefined' ? module.exports[${JSON.stringify(name)}] : ${name}`);
    const whole = globalThis.module.exports;
    return own === undefined && typeof whole === 'function' && whole.name === name ? whole : own;
  } catch (error) {
    return undefined;
  }
}

function answer(request, kept, keep) {
  const offered = (one) => {
    try {
      return encoded(one, keep);
    } catch (error) {
      return { foreign: 0 }; // such as an object in itself: not raised by what was called
    }
  };
  const given = request.arguments.map((one) => decoded(one, (inner) => kept[inner.kept]));
  const reply = {};
  try {
    const value = kept[request.kept](...given);
    Object.assign(reply, { value: offered(value), same: typeof value === 'object' && value ? given.indexOf(value) : -1 });
  } catch (error) {
    if (error instanceof Error) reply.raised = [nameOf(error), String(error.message).slice(0, 200)];
    else reply.thrown = offered(error);
  }
  return { ...reply, after: given.map((one) => (typeof one === 'object' ? offered(one) : null)) };
}

// Gives an array, map, set or object that was handed over the content that the code left in its copy.
function follow(one, after) {
  const kind = Object.prototype.toString;
  if (kind.call(one) !== kind.call(after)) return;
  if (one instanceof Map || one instanceof Set) one.clear();
  if (one instanceof Map) after.forEach((inner, key) => one.set(key, inner));
  if (one instanceof Set) after.forEach((inner) => one.add(inner));
  for (const key of Object.keys(one)) if (!Object.hasOwn(after, key)) delete one[key];
  Object.defineProperties(one, Object.getOwnPropertyDescriptors(after));
}

// The one package that a problem of HumanEval-X asks for, by what node has of it.
function md5(text) {
  return require('crypto').createHash('md5').update(text).digest('hex');
}

function errorOf(name, text) {
  return Object.hasOwn(ERRORS, name) ? new ERRORS[name](text) : Object.assign(new Error(text), { name });
}

// An error that no program can prevent.
function uncrossable(text) {
  return Object.assign(new TypeError(text), { name: 'Uncrossable' });
}

// What the tests require; a package that is not there is no error of the code.
function required(name) {
  try {
    return require(name);
  } catch (error) {
    throw Object.assign(error, { name: 'ModuleNotFoundError' });
  }
}

// The tests: calls go out, values come back, and are compared here.
function hold(program) {
  const [inbox, outbox, verdict] = [told.inbox, told.outbox, told.verdict];
  send(verdict, { tests: told.layers });
  let said;
  for (const key of ['layers', 'parses', 'runs']) {
    said = receive(inbox);
    send(verdict, key === 'layers' ? { solution: said.layers } : { [key]: said[key] === true });
    if (key !== 'layers' && said[key] !== true) return send(verdict, { failed: /^\w{1,80}$/.test(said.why) ? said.why : 'Error' });
  }
  let gone = null;
  let foreign = false; // an object that is no plain value, such as an instance of a class of the code, came to the tests
  const standIn = (value) => {
    const number = value.kept;
    if (number === undefined) foreign = true;
    const made = function (...given) {
      if (gone) throw gone;
      if (new.target) throw uncrossable('an object of a class stays with the code under test');
      return call(number, given);
    };
    return number === undefined ? undefined : Object.defineProperty(made, 'length', { value: undefined });
  };
  let asked = false;
  const theirs = new Set(); // errors that the code raised
  const call = (number, given) => {
    asked = true;
    const none = () => {
      throw uncrossable('a function cannot be handed to the code under test');
    };
    const request = { kept: number, arguments: given.map((one) => encoded(one, none)) };
    let reply;
    try {
      send(outbox, request);
      reply = receive(inbox);
    } catch (error) {
      throw (gone = error); // also where the code left before it was asked: then the pipe breaks
    }
    given.forEach((one, place) => {
      if (reply.after[place] && JSON.stringify(reply.after[place]) !== JSON.stringify(request.arguments[place]))
        follow(one, decoded(reply.after[place], standIn));
    });
    if (reply.raised || 'thrown' in reply) {
      const error = reply.raised ? errorOf(...reply.raised.map(String)) : decoded(reply.thrown, standIn);
      theirs.add(error);
      throw error;
    }
    return reply.same >= 0 ? given[reply.same] : decoded(reply.value, standIn);
  };
  let failed = 0;
  // A handler of a promise takes what the code raised; an error of the tests' own, such as a failed assertion, counts.
  const then = Promise.prototype.then;
  Promise.prototype.then = function (done, caught) {
    const counted = (error) => {
      if (!theirs.has(error)) failed += 1;
      return caught(error);
    };
    return then.call(this, done, typeof caught === 'function' ? counted : caught);
  };
  console.assert = (good) => {
    if (!good) failed += 1;
  };
  const names = program.names.filter((name) => Object.hasOwn(said.names, name) && !OURS.has(name));
  const scope = Object.create(null); // a name is read from the code only if the tests do not define it
  for (const name of names) {
    let [read, value] = [false];
    Object.defineProperty(scope, name, {
      get() {
        if (!read) [read, value] = [true, decoded(said.names[name], standIn)];
        asked ||= typeof value !== 'function';
        return value;
      },
      set: (given) => ([read, value] = [true, given]),
    });
  }
  const lost = (error) => {
    send(verdict, { failed: gone ? 'ended' : nameOf(error).replace(/\W.*/s, '') || 'Error' });
    process.exit(0);
  };
  // What runs later is waited for: an assertion behind a promise or a timer counts as any other, and so does what the
  // tests do when node ends, such as setting an exit code (node:test does). `process.exit` in the tests is no success.
  process.on('uncaughtException', lost);
  process.on('unhandledRejection', lost);
  const judge = () => {
    const wrong = failed || process.exitCode;
    const why = gone ? 'ended' : foreign ? 'TypeError' : wrong ? 'AssertionError' : asked ? '' : 'untested';
    send(verdict, why ? { failed: why } : { passes: true });
  };
  process.once('beforeExit', () => process.on('exit', judge));
  try {
    // A scope of its own for each layer, so that what the tests define stands before what the code does.
    const body = `{\n${program.setup}\n${program.tests.join('\n')}\n}`;
    vm.compileFunction(body, ['require'], { contextExtensions: [scope] })(required);
  } catch (error) {
    lost(error);
  }
}

const program = JSON.parse(fs.readFileSync(0, 'utf8'));
try {
  (role === 'tests' ? hold : solve)(program);
} catch (error) {
  if (role === 'tests') send(told.verdict, { failed: error instanceof Gone ? 'ended' : nameOf(error) });
  process.exit(0);
}
