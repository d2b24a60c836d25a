import { Sandbox } from 'e2b'

// Creates a sandbox and keeps it for five minutes.
const sandbox = await Sandbox.create()

const result = await sandbox.commands.run('echo "Hello from the sandbox"')
console.log(result.stdout)

await sandbox.files.write('/home/user/hello.txt', 'Hello, file')
console.log(await sandbox.files.read('/home/user/hello.txt'))

await sandbox.kill()
