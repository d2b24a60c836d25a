from e2b import Sandbox

# Creates a sandbox and keeps it for five minutes.
sandbox = Sandbox.create()

result = sandbox.commands.run('echo "Hello from the sandbox"')
print(result.stdout)

sandbox.files.write("/home/user/hello.txt", "Hello, file")
print(sandbox.files.read("/home/user/hello.txt"))

sandbox.kill()
