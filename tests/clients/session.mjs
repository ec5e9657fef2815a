// A session of the official JavaScript client: session.mjs KUBECONFIG NAMESPACE IMAGE.
//
// It does what programs written with this client do, with no option that a stock cluster would not need, and ends at the
// first answer that is not the one a stock API server gives.

import assert from 'node:assert/strict';
import { PassThrough, Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import * as k8s from '@kubernetes/client-node';

const [kubeconfig, namespace, image] = process.argv.slice(2);
const config = new k8s.KubeConfig();
config.loadFromFile(kubeconfig);
const core = config.makeApiClient(k8s.CoreV1Api);
const apps = config.makeApiClient(k8s.AppsV1Api);
const objects = config.makeApiClient(k8s.KubernetesObjectApi);

// Serves HTTP, and ends once the file is there.
const SCRIPT = 'echo one; echo two; /test serve & until [ -e /tmp/go ]; do sleep 0.1; done; echo three';

function configMap(name, data) {
  return { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name, namespace, labels: { session: 'node' } }, data };
}

/** Fails unless the call is answered with this Status; returns it. */
async function refused(what, code, reason, call) {
  let answer;
  try {
    answer = await call();
  } catch (error) {
    const status = typeof error.body === 'string' ? JSON.parse(error.body) : error.body;
    assert.deepEqual([error.code, status.code, status.reason], [code, code, reason], what);
    return status;
  }
  assert.fail(`${what}: it succeeded: ${JSON.stringify(answer)}`);
}

/** The options of a patch with this content type. */
const as = (contentType) => k8s.setHeaderOptions('Content-Type', contentType);

/** Watches config maps or pods until `enough` says so of the events, which it returns. */
function watch(plural, query, enough) {
  return new Promise((resolve, reject) => {
    const events = [];
    let stop;
    new k8s.Watch(config)
      .watch(
        `/api/v1/namespaces/${namespace}/${plural}`,
        query,
        (type, object) => {
          events.push({ type, object });
          if (enough(events)) {
            resolve(events);
            stop?.abort();
          }
        },
        (error) => (enough(events) ? resolve(events) : reject(error ?? new Error('the watch ended'))),
      )
      .then((controller) => {
        stop = controller;
        if (enough(events)) stop.abort();
      }, reject);
  });
}

/** Five objects, two at a time: a limit, and continue tokens until none is left. */
async function listInPieces() {
  const names = [0, 1, 2, 3, 4].map((i) => `item-${i}`);
  for (const name of names) await core.createNamespacedConfigMap({ namespace, body: configMap(name, { k: 'v' }) });
  const pages = [];
  let _continue;
  do {
    const page = await core.listNamespacedConfigMap({ namespace, labelSelector: 'session=node', limit: 2, _continue });
    pages.push(page);
    _continue = page.metadata._continue;
  } while (_continue);
  assert.deepEqual(pages.flatMap((page) => page.items.map((item) => item.metadata.name)), names);
  assert.deepEqual(pages.map((page) => page.items.length), [2, 2, 1]);
  assert.equal(new Set(pages.map((page) => page.metadata.resourceVersion)).size, 1, 'one revision for all pieces');
  await refused('a token that is none', 400, 'BadRequest', () =>
    core.listNamespacedConfigMap({ namespace, limit: 2, _continue: 'no token' }));
}

/** A watch from a list's revision sees all that came after; one from an event's revision sees the rest, once. */
async function watchAndResume() {
  const start = (await core.listNamespacedConfigMap({ namespace })).metadata.resourceVersion;
  await core.createNamespacedConfigMap({ namespace, body: configMap('watched', { k: '1' }) });
  const body = { data: { k: '2' } };
  await core.patchNamespacedConfigMap({ name: 'watched', namespace, body }, as(k8s.PatchStrategy.MergePatch));
  await core.deleteNamespacedConfigMap({ name: 'watched', namespace });
  const events = async (resourceVersion, count) => {
    const query = { fieldSelector: 'metadata.name=watched', resourceVersion };
    const seen = await watch('configmaps', query, (events) => events.length >= count);
    return seen.map(({ type, object }) => [type, object.metadata.resourceVersion]);
  };
  const whole = await events(start, 3);
  assert.deepEqual(whole.map(([type]) => type), ['ADDED', 'MODIFIED', 'DELETED']);
  assert.deepEqual(await events(whole[0][1], 2), whole.slice(1), 'events after a resume');
}

/** An informer lists, watches, and keeps a cache that follows. */
async function informer() {
  const list = () => core.listNamespacedConfigMap({ namespace, labelSelector: 'session=node' });
  const path = `/api/v1/namespaces/${namespace}/configmaps`;
  const informer = k8s.makeInformer(config, path, list, 'session=node');
  const deleted = new Promise((resolve, reject) => {
    informer.on('delete', (object) => object.metadata.name === 'item-4' && resolve());
    informer.on('error', reject);
  });
  await informer.start();
  assert.equal(informer.list(namespace).length, 5);
  await core.deleteNamespacedConfigMap({ name: 'item-4', namespace });
  await deleted;
  assert.equal(informer.list(namespace).length, 4);
  await informer.stop();
}

/** Server-side apply by two managers. */
async function apply() {
  const mine = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'applied', namespace }, data: { a: '1', b: '1' } };
  const theirs = { ...mine, data: { b: '2' } };
  const apply = (body, manager, force) =>
    objects.patch(body, undefined, undefined, manager, force, k8s.PatchStrategy.ServerSideApply);
  assert.deepEqual((await apply(mine, 'mine')).data, { a: '1', b: '1' });
  const status = await refused("somebody else's field", 409, 'Conflict', () => apply(theirs, 'theirs'));
  const causes = status.details.causes.map(({ reason, field }) => [reason, field]);
  assert.deepEqual(causes, [['FieldManagerConflict', '.data.b']]);
  assert.deepEqual((await apply(theirs, 'theirs', true)).data, { a: '1', b: '2' });
  const applied = await apply({ ...mine, data: { a: '1' } }, 'mine');
  assert.deepEqual(applied.data, { a: '1', b: '2' });
  assert.deepEqual(applied.metadata.managedFields.map(({ manager }) => manager).sort(), ['mine', 'theirs']);
}

/** The three patch formats on one Deployment. */
async function patch() {
  const containers = [{ name: 'web', image }];
  const template = { metadata: { labels: { app: 'patched' } }, spec: { containers } };
  const spec = { replicas: 0, selector: { matchLabels: { app: 'patched' } }, template };
  await apps.createNamespacedDeployment({ namespace, body: { metadata: { name: 'patched' }, spec } });
  const patch = async (contentType, body) => {
    const patched = await apps.patchNamespacedDeployment({ name: 'patched', namespace, body }, as(contentType));
    return patched.spec.template.spec.containers.map(({ name }) => name);
  };
  const side = { spec: { template: { spec: { containers: [{ name: 'side', image }] } } } };
  assert.deepEqual(await patch(k8s.PatchStrategy.StrategicMergePatch, side), ['side', 'web'], 'merged by name');
  assert.deepEqual(await patch(k8s.PatchStrategy.MergePatch, side), ['side'], 'a merge patch replaces lists');
  const path = '/spec/template/spec/containers/0/name';
  const operations = [
    { op: 'test', path, value: 'side' },
    { op: 'replace', path, value: 'web' },
  ];
  assert.deepEqual(await patch(k8s.PatchStrategy.JsonPatch, operations), ['web']);
  await refused('a test that does not hold', 422, 'Invalid', () => patch(k8s.PatchStrategy.JsonPatch, operations));
}

/** The slower of two writers that read the same version is told so. */
async function conflict() {
  const read = () => core.readNamespacedConfigMap({ name: 'item-0', namespace });
  const [first, second] = [await read(), await read()];
  first.data = { k: 'first' };
  await core.replaceNamespacedConfigMap({ name: 'item-0', namespace, body: first });
  second.data = { k: 'second' };
  await refused('a stale version', 409, 'Conflict', () =>
    core.replaceNamespacedConfigMap({ name: 'item-0', namespace, body: second }));
  await refused('a name that is taken', 409, 'AlreadyExists', () =>
    core.createNamespacedConfigMap({ namespace, body: configMap('item-0', {}) }));
  await refused('nothing there', 404, 'NotFound', () => core.readNamespacedConfigMap({ name: 'nobody', namespace }));
}

async function startPod() {
  const containers = [{ name: 'main', image, command: ['sh', '-c', SCRIPT] }];
  const spec = { restartPolicy: 'Never', terminationGracePeriodSeconds: 0, containers };
  await core.createNamespacedPod({ namespace, body: { metadata: { name: 'pod' }, spec } });
  await pod((status) => status.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True'));
}

/** Waits until the pod's status is as wanted. */
const pod = (wanted) =>
  watch('pods', { fieldSelector: 'metadata.name=pod' }, (events) => wanted(events.at(-1)?.object.status ?? {}));

async function run(command, stdin = null) {
  const [stdout, stderr] = [new PassThrough(), new PassThrough()];
  const status = await new Promise((resolve, reject) => {
    new k8s.Exec(config).exec(namespace, 'pod', 'main', command, stdout, stderr, stdin, false, resolve).catch(reject);
  });
  stdout.end();
  stderr.end();
  return { stdout: await text(stdout), stderr: await text(stderr), status };
}

async function exec() {
  const hello = await run(['echo', 'hello']);
  assert.deepEqual([hello.stdout, hello.status.status], ['hello\n', 'Success']);
  const script = 'read line; echo got $line; echo oops >&2; exit 3';
  const failed = await run(['sh', '-c', script], Readable.from(['something\n']));
  assert.deepEqual([failed.stdout, failed.stderr], ['got something\n', 'oops\n']);
  assert.equal(failed.status.reason, 'NonZeroExitCode');
  assert.deepEqual(failed.status.details.causes, [{ reason: 'ExitCode', message: '3' }]);
}

async function portForward() {
  const [input, output] = [new PassThrough(), new PassThrough()];
  const socket = await new k8s.PortForward(config).portForward(namespace, 'pod', [80], output, null, input);
  socket.on('close', () => output.end());
  input.write('GET /hostname HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n');
  const [head, body] = (await text(output)).split('\r\n\r\n');
  assert.equal(head.split('\r\n')[0], 'HTTP/1.1 200 OK');
  assert.equal(body.trim(), 'pod');
}

/** What was said so far, then with follow what is said until the container ends. */
async function logs() {
  assert.equal(await core.readNamespacedPodLog({ name: 'pod', namespace, limitBytes: 4 }), 'one\n');
  const output = new PassThrough();
  await new k8s.Log(config).log(namespace, 'pod', 'main', output, { follow: true });
  await run(['touch', '/tmp/go']);
  const lines = (await text(output)).split('\n');
  assert.deepEqual(lines.filter((line) => ['one', 'two', 'three'].includes(line)), ['one', 'two', 'three']);
  await pod((status) => status.phase === 'Succeeded');
}

async function remove() {
  await refused('another uid', 409, 'Conflict', () =>
    core.deleteNamespacedConfigMap({ name: 'item-0', namespace, body: { preconditions: { uid: 'another' } } }));
  await core.deleteCollectionNamespacedConfigMap({ namespace, labelSelector: 'session=node' });
  assert.deepEqual((await core.listNamespacedConfigMap({ namespace, labelSelector: 'session=node' })).items, []);
}

for (const step of [
  listInPieces, watchAndResume, informer, apply, patch, conflict, startPod, exec, portForward, logs, remove,
]) {
  await step();
  console.log(step.name, 'ok');
}
// The client keeps idle connections open, which would keep the program alive.
process.exit(0);
