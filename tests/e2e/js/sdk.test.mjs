// The newest JavaScript SDK against the real server: the smaller set. Run by test_js.py, one line of TAP per test.

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { after, before, test } from 'node:test'
import {
  CommandExitError,
  FileNotFoundError,
  FileType,
  FilesystemEventType,
  InvalidArgumentError,
  Sandbox,
  SandboxNotFoundError,
  TimeoutError,
} from 'e2b'

const MIB = 1 << 20
let sandbox
let directory

before(async () => {
  sandbox = await Sandbox.create({ timeoutMs: 600_000, metadata: { from: 'js' } })
  directory = '/home/user/js'
  await sandbox.files.makeDir(directory)
})

after(async () => {
  await sandbox.kill()
})

// Waits until `condition()` is true; fails after `deadline` milliseconds.
async function until(condition, what, deadline = 15_000) {
  const end = Date.now() + deadline
  while (!(await condition())) {
    assert.ok(Date.now() < end, `not in time: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

// Another one after every boot of a kernel.
async function bootOf(one) {
  return (await one.commands.run('cat /proc/sys/kernel/random/boot_id')).stdout.trim()
}

test('a command', async () => {
  const result = await sandbox.commands.run('echo out; echo err >&2')
  assert.deepEqual([result.stdout, result.stderr, result.exitCode], ['out\n', 'err\n', 0])
})

test('a command with another exit code', async () => {
  await assert.rejects(sandbox.commands.run('echo why >&2; exit 3'), (error) => {
    assert.ok(error instanceof CommandExitError)
    assert.deepEqual([error.exitCode, error.stderr], [3, 'why\n'])
    return true
  })
})

test('user, directory, environment', async () => {
  const result = await sandbox.commands.run('id -un; pwd; echo $GREETING', {
    user: 'root',
    cwd: '/tmp',
    envs: { GREETING: 'grüße 🙂' },
  })
  assert.equal(result.stdout, 'root\n/tmp\ngrüße 🙂\n')
})

test('output arrives in pieces while the command runs', async () => {
  const pieces = []
  const errors = []
  const result = await sandbox.commands.run('for i in 1 2 3; do echo $i; echo e$i >&2; sleep 0.4; done', {
    onStdout: (data) => pieces.push([Date.now(), data]),
    onStderr: (data) => errors.push(data),
  })
  assert.equal(pieces.map(([, data]) => data).join(''), '1\n2\n3\n')
  assert.equal(errors.join(''), 'e1\ne2\ne3\n')
  assert.ok(pieces.at(-1)[0] - pieces[0][0] > 500)
  assert.equal(result.stdout, '1\n2\n3\n')
})

test('a character split between two writes', async () => {
  const result = await sandbox.commands.run(String.raw`printf '\xf0\x9f'; sleep 0.3; printf '\x98\x80'`)
  assert.equal(result.stdout, '😀')
})

test('megabytes of output', async () => {
  const result = await sandbox.commands.run(`yes 0123456789abcde | head -c ${4 * MIB}`)
  assert.equal(result.stdout.length, 4 * MIB)
  assert.equal(result.stdout, '0123456789abcde\n'.repeat((4 * MIB) / 16))
})

test('stdin of a background command', async () => {
  const handle = await sandbox.commands.run('cat', { background: true, stdin: true })
  await sandbox.commands.sendStdin(handle.pid, 'one ')
  await handle.sendStdin('two')
  await handle.closeStdin()
  assert.equal((await handle.wait()).stdout, 'one two')
})

test('leaving a background command and joining it again', async () => {
  const first = await sandbox.commands.run(`until [ -e ${directory}/go ]; do sleep 0.1; done; echo end`, { background: true })
  await first.disconnect()
  const elsewhere = await Sandbox.connect(sandbox.sandboxId)
  assert.ok((await elsewhere.commands.list()).some((process) => process.pid === first.pid))
  const second = await elsewhere.commands.connect(first.pid)
  await elsewhere.files.write(`${directory}/go`, '')
  assert.equal((await second.wait()).stdout, 'end\n')
})

test('killing a command', async () => {
  const handle = await sandbox.commands.run('sleep 300', { background: true })
  assert.equal(await handle.kill(), true)
  await assert.rejects(handle.wait(), CommandExitError)
  assert.equal(await sandbox.commands.kill(999_999), false)
})

test('a command that takes too long', async () => {
  await assert.rejects(sandbox.commands.run('sleep 30', { timeoutMs: 1000 }), TimeoutError)
})

test('many commands at once', async () => {
  const results = await Promise.all(Array.from({ length: 40 }, (_, i) => sandbox.commands.run(`echo ${i}`)))
  results.forEach((result, i) => assert.equal(result.stdout, `${i}\n`))
})

test('files: text and bytes', async () => {
  const written = await sandbox.files.write(`${directory}/text ü.txt`, 'Hello, wörld')
  assert.equal(written.path, `${directory}/text ü.txt`)
  assert.equal(await sandbox.files.read(`${directory}/text ü.txt`), 'Hello, wörld')
  const bytes = Uint8Array.from({ length: 100_000 }, (_, i) => i % 251)
  await sandbox.files.write(`${directory}/bytes`, bytes.buffer)
  assert.deepEqual(await sandbox.files.read(`${directory}/bytes`, { format: 'bytes' }), bytes)
  const blob = await sandbox.files.read(`${directory}/bytes`, { format: 'blob' })
  assert.equal(blob.size, bytes.length)
  await sandbox.files.write(`${directory}/empty`, '')
  assert.equal(await sandbox.files.read(`${directory}/empty`), '')
})

test('files: streams both ways', async () => {
  const block = new Uint8Array(MIB).fill(7)
  const expected = createHash('sha256')
  let left = 20
  const source = new ReadableStream({
    pull(controller) {
      if (left-- > 0) {
        expected.update(block)
        controller.enqueue(block)
      } else controller.close()
    },
  })
  await sandbox.files.write(`${directory}/stream`, source)
  const received = createHash('sha256')
  let size = 0
  for await (const chunk of await sandbox.files.read(`${directory}/stream`, { format: 'stream' })) {
    received.update(chunk)
    size += chunk.length
  }
  assert.equal(size, 20 * MIB)
  assert.equal(received.digest('hex'), expected.digest('hex'))
})

test('files: batch, list, info, rename, remove', async () => {
  await sandbox.files.write(
    Array.from({ length: 5 }, (_, i) => ({ path: `${directory}/batch/d${i}/f`, data: `content ${i}` }))
  )
  const entries = await sandbox.files.list(`${directory}/batch`, { depth: 2 })
  assert.equal(entries.length, 10)
  assert.equal(entries.filter((entry) => entry.type === FileType.DIR).length, 5)
  const info = await sandbox.files.getInfo(`${directory}/batch/d0/f`)
  assert.deepEqual([info.name, info.size, info.owner, info.permissions], ['f', 9, 'user', '-rw-r--r--'])
  await sandbox.files.rename(`${directory}/batch/d0/f`, `${directory}/batch/moved`)
  assert.equal(await sandbox.files.read(`${directory}/batch/moved`), 'content 0')
  assert.equal(await sandbox.files.makeDir(`${directory}/batch/d0`), false)
  await sandbox.files.remove(`${directory}/batch`)
  assert.equal(await sandbox.files.exists(`${directory}/batch`), false)
})

test('files: what does not exist', async () => {
  await assert.rejects(sandbox.files.read(`${directory}/nothing`), FileNotFoundError)
  await assert.rejects(sandbox.files.list(`${directory}/nothing`), FileNotFoundError)
  await assert.rejects(sandbox.files.read(directory), InvalidArgumentError)
})

test('files: metadata', async () => {
  await sandbox.files.write(`${directory}/m`, 'x', { metadata: { Author: 'me' } })
  assert.deepEqual((await sandbox.files.getInfo(`${directory}/m`)).metadata, { author: 'me' })
})

test('watching a directory', async () => {
  await sandbox.files.makeDir(`${directory}/watched`)
  const events = []
  let ended = false
  const handle = await sandbox.files.watchDir(`${directory}/watched`, (event) => events.push(event), {
    recursive: true,
    onExit: () => {
      ended = true
    },
  })
  await sandbox.files.write(`${directory}/watched/deep/f.txt`, 'x')
  const seen = (name, type) => events.some((event) => event.name === name && event.type === type)
  await until(() => seen('deep/f.txt', FilesystemEventType.CREATE), 'the file to be seen')
  await sandbox.files.remove(`${directory}/watched/deep/f.txt`)
  await until(() => seen('deep/f.txt', FilesystemEventType.REMOVE), 'its removal to be seen')
  await handle.stop()
  await until(() => ended, 'the watch to end')
})

test('a terminal', async () => {
  let output = ''
  const decoder = new TextDecoder()
  const terminal = await sandbox.pty.create({
    cols: 80,
    rows: 24,
    timeoutMs: 60_000,
    onData: (data) => {
      output += decoder.decode(data, { stream: true })
    },
  })
  const type = (text) => sandbox.pty.sendInput(terminal.pid, new TextEncoder().encode(text))
  await type('echo sum-$((40+2)); stty size\n')
  await until(() => output.includes('sum-42') && output.includes('24 80'), 'the answer')
  await sandbox.pty.resize(terminal.pid, { cols: 132, rows: 43 })
  await type('stty size\n')
  await until(() => output.includes('43 132'), 'the new size')
  assert.equal(await sandbox.pty.kill(terminal.pid), true)
  await assert.rejects(terminal.wait(), CommandExitError)
})

test('lists and facts', async () => {
  const paginator = Sandbox.list({ query: { metadata: { from: 'js' }, state: ['running'] }, limit: 1 })
  const items = await paginator.nextItems()
  assert.ok(items.some((item) => item.sandboxId === sandbox.sandboxId) || paginator.hasNext)
  const info = await sandbox.getInfo()
  assert.equal(info.sandboxId, sandbox.sandboxId)
  assert.equal(info.envdVersion, '0.6.13')
  assert.deepEqual(info.metadata, { from: 'js' })
  await sandbox.setTimeout(900_000)
  assert.ok(Math.abs((await sandbox.getInfo()).endAt.getTime() - Date.now() - 900_000) < 3000)
})

test('metrics', async () => {
  await until(async () => (await sandbox.getMetrics()).length > 0, 'a first sample', 30_000)
})

test('snapshots', async () => {
  await sandbox.files.write(`${directory}/kept`, 'kept')
  const snapshot = await sandbox.createSnapshot({ name: 'from-js' })
  assert.deepEqual(snapshot, { snapshotId: 'e2e/from-js:default', names: ['e2e/from-js:default'] })
  await sandbox.files.write(`${directory}/kept`, 'changed')
  const all = await sandbox.listSnapshots({ limit: 1 }).nextItems()
  assert.deepEqual(all, [snapshot])
  assert.deepEqual(await Sandbox.listSnapshots({ name: 'from-js:default' }).nextItems(), [snapshot])
  const other = await Sandbox.create(snapshot.snapshotId, { timeoutMs: 120_000 })
  try {
    assert.notEqual(other.sandboxId, sandbox.sandboxId)
    assert.equal(await Sandbox.deleteSnapshot(snapshot.snapshotId), true)
    assert.equal(await Sandbox.deleteSnapshot(snapshot.snapshotId), false)
    assert.equal(await other.files.read(`${directory}/kept`), 'kept')
  } finally {
    await other.kill()
  }
})

test('snapshots page by page', async () => {
  const made = []
  try {
    for (const name of [undefined, 'paged:one', 'paged:two']) made.unshift(await sandbox.createSnapshot({ name }))
    const pages = []
    const paginator = Sandbox.listSnapshots({ sandboxId: sandbox.sandboxId, limit: 2 })
    while (paginator.hasNext) pages.push(await paginator.nextItems())
    assert.deepEqual(pages, [made.slice(0, 2), made.slice(2)])
    await assert.rejects(paginator.nextItems(), /No more items/)
    assert.deepEqual(await Sandbox.listSnapshots({ name: 'paged' }).nextItems(), made.slice(0, 2))
  } finally {
    for (const one of made) assert.equal(await Sandbox.deleteSnapshot(one.snapshotId), true)
  }
  assert.deepEqual(await sandbox.listSnapshots().nextItems(), [])
})

test('a snapshot of the disk alone', async () => {
  const boot = await bootOf(sandbox)
  await sandbox.files.write(`${directory}/on-disk`, 'on the disk')
  await sandbox.commands.run('echo memory > /dev/shm/in-memory')
  // The SDK has no word for it yet.
  const made = await fetch(`${process.env.E2B_API_URL}/sandboxes/${sandbox.sandboxId}/snapshots`, {
    method: 'POST',
    headers: { 'X-API-Key': process.env.E2B_API_KEY, 'Content-Type': 'application/json' },
    body: JSON.stringify({ memory: false }),
  })
  assert.equal(made.status, 201)
  const { snapshotID } = await made.json()
  try {
    assert.deepEqual((await sandbox.listSnapshots().nextItems()).map((one) => one.snapshotId), [snapshotID])
    const other = await Sandbox.create(snapshotID, { timeoutMs: 120_000, envs: { GREETING: 'hello' } })
    try {
      assert.notEqual(await bootOf(other), boot)
      assert.equal(await other.files.read(`${directory}/on-disk`), 'on the disk')
      const told = await other.commands.run('echo $GREETING; hostname; ls /dev/shm')
      assert.equal(told.stdout, `hello\n${other.sandboxId}\n`)
    } finally {
      await other.kill()
    }
  } finally {
    assert.equal(await Sandbox.deleteSnapshot(snapshotID), true)
  }
  assert.equal(await bootOf(sandbox), boot)
  assert.equal((await sandbox.commands.run('cat /dev/shm/in-memory')).stdout, 'memory\n')
})

test('forks', async () => {
  await sandbox.files.write(`${directory}/forked`, 'before')
  const forks = await sandbox.fork({ count: 2, timeoutMs: 120_000 })
  try {
    assert.equal(forks.length, 2)
    for (const fork of forks) {
      assert.ok(fork instanceof Sandbox, String(fork))
      assert.equal(await fork.files.read(`${directory}/forked`), 'before')
      await fork.files.write(`${directory}/forked`, fork.sandboxId)
    }
    assert.equal(new Set([sandbox.sandboxId, ...forks.map((fork) => fork.sandboxId)]).size, 3)
    assert.equal(await sandbox.files.read(`${directory}/forked`), 'before')
    await forks[0].pause()
    await assert.rejects(forks[0].fork(), /409.*paused/)
  } finally {
    await Promise.all(forks.map((fork) => fork instanceof Sandbox && fork.kill()))
  }
  await assert.rejects(forks[0].fork(), SandboxNotFoundError)
})

test('a pause, with memory and without', async () => {
  const other = await Sandbox.create({ timeoutMs: 300_000, metadata: { of: 'a pause' } })
  try {
    const boot = await bootOf(other)
    await other.commands.run('echo disk > kept; echo memory > /dev/shm/kept')
    assert.equal(await other.pause(), true)
    assert.equal(await other.pause(), false)
    assert.equal((await other.getInfo()).state, 'paused')
    await other.connect({ timeoutMs: 300_000 })
    assert.equal((await other.commands.run('cat kept /dev/shm/kept')).stdout, 'disk\nmemory\n')
    assert.equal(await bootOf(other), boot)

    assert.equal(await Sandbox.pause(other.sandboxId, { keepMemory: false }), true)
    const again = await Sandbox.connect(other.sandboxId, { timeoutMs: 300_000 })
    const second = await bootOf(again)
    assert.notEqual(second, boot)
    assert.equal((await again.commands.run('cat kept; ls /dev/shm')).stdout, 'disk\n')
    assert.deepEqual((await again.getInfo()).metadata, { of: 'a pause' })

    // The memory is kept, and not wanted.
    await again.pause()
    await Sandbox.connect(other.sandboxId, { timeoutMs: 300_000, onResume: 'reboot' })
    assert.notEqual(await bootOf(again), second)
    assert.equal((await again.commands.run('cat kept')).stdout, 'disk\n')
  } finally {
    await other.kill()
  }
})

test('an end time that pauses, and a request that resumes', async () => {
  const lifecycle = { onTimeout: 'pause', autoResume: true }
  const other = await Sandbox.create({ timeoutMs: 300_000, lifecycle })
  try {
    assert.deepEqual((await other.getInfo()).lifecycle, lifecycle)
    await other.commands.run('echo memory > /dev/shm/kept')
    await other.setTimeout(1000)
    await until(async () => (await other.getInfo()).state === 'paused', 'the end time to pause it', 30_000)
    assert.equal((await other.commands.run('cat /dev/shm/kept')).stdout, 'memory\n')
    assert.equal((await other.getInfo()).state, 'running')
  } finally {
    await other.kill()
  }
})

test('an end time that keeps the disk alone', async () => {
  const lifecycle = { onTimeout: { action: 'pause', keepMemory: false } }
  const other = await Sandbox.create({ timeoutMs: 300_000, lifecycle })
  try {
    const boot = await bootOf(other)
    assert.deepEqual((await other.getInfo()).lifecycle, { onTimeout: 'pause', autoResume: false })
    await other.files.write('kept', 'kept')
    await other.setTimeout(1000)
    const { endAt } = await other.getInfo()
    // It ended when the pause was over: whoever connects before that takes it back.
    const over = async () => {
      const info = await other.getInfo()
      return info.state === 'paused' && info.endAt > endAt
    }
    await until(over, 'the end time to pause it', 30_000)
    await other.connect({ timeoutMs: 300_000 })
    assert.notEqual(await bootOf(other), boot)
    assert.equal(await other.files.read('kept'), 'kept')
  } finally {
    await other.kill()
  }
})

test('an end time that kills', async () => {
  const other = await Sandbox.create({ timeoutMs: 300_000, lifecycle: { onTimeout: 'kill' } })
  assert.deepEqual((await other.getInfo()).lifecycle, { onTimeout: 'kill', autoResume: false })
  await other.setTimeout(500)
  await until(async () => !(await other.isRunning()), 'the end time to end it')
  await assert.rejects(other.getInfo(), SandboxNotFoundError)
  await assert.rejects(other.connect(), SandboxNotFoundError)
})

test('the end', async () => {
  const other = await Sandbox.create({ timeoutMs: 120_000 })
  assert.equal(await other.isRunning(), true)
  assert.equal(await other.kill(), true)
  assert.equal(await other.kill(), false)
  assert.equal(await other.isRunning(), false)
  await assert.rejects(other.getInfo(), SandboxNotFoundError)
  await assert.rejects(other.commands.run('true'), SandboxNotFoundError)
})

test('an unknown template', async () => {
  await assert.rejects(Sandbox.create('no-such-template'), /no-such-template/)
})
