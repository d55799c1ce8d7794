/**
 * Runs a Jenkinsfile with the pipeline's words defined here: `sh` really runs, files are really archived, and
 * every step is written down. A word that is not defined here is an error, as it would be on a controller.
 *
 *     groovy harness.groovy CONFIG.json
 *
 * CONFIG: jenkinsfile, workspace, vars (a library's vars folder), archive, secrets (id -> text), trace (a file to
 * write), env, params, abort_when (a file: when it is there, the build is aborted as a controller does it).
 */
import groovy.json.JsonOutput
import groovy.json.JsonSlurperClassic
import org.codehaus.groovy.control.CompilerConfiguration
import org.codehaus.groovy.control.customizers.ImportCustomizer

class Aborted extends RuntimeException { Aborted() { super('aborted') } }
class Failed extends RuntimeException { Failed(String text) { super(text) } }

/** The build's state and the steps that any Groovy of it may call. */
class Machine {
    Map config
    Map<String, String> env = [:]
    Map<String, String> params = [:]
    List<Map> trace = []
    Map<String, Object> library = [:]
    String result = 'SUCCESS'
    volatile boolean aborted = false
    File here
    GroovyShell shell
    String cookie = UUID.randomUUID()

    static final List<String> TOOLS = ['issues', 'sarif', 'myPy', 'junitParser', 'taskScanner']
    static final List<String> DATA = ['logRotator']

    void note(String word, Object args) { trace << [step: word, args: args == null ? null : args.toString()] }

    /** A step by name. Closures run here, in this order, with what the step gives them. */
    Object step(String name, List args) {
        Closure body = args && args[-1] instanceof Closure ? args[-1] as Closure : null
        Object first = args && !(args[0] instanceof Closure) ? args[0] : null
        Map named = first instanceof Map ? first as Map : [:]
        if (name in TOOLS || name in DATA) { return [(name): named] }
        if (name in ['file', 'string', 'usernamePassword']) { return named + [kind: name] }
        note(name, first instanceof List && first.any { it instanceof Map && it.credentialsId } ? first*.credentialsId : first)
        switch (name) {
            case 'sh': return sh(first instanceof Map ? named : [script: first])
            case 'echo': println(first); return null
            case 'error': throw new Failed(first as String)
            case 'checkout': assert first == 'scm'; return [GIT_COMMIT: env.GIT_COMMIT]
            case 'pwd': return here.path
            case 'isUnix': return true
            case 'fileExists': return new File(here, first as String).exists()
            case 'readFile': return new File(here, (first instanceof Map ? named.file : first) as String).text
            case 'deleteDir': here.deleteDir(); return null
            case 'archiveArtifacts': return archive(first instanceof Map ? named : [artifacts: first])
            case 'junit': return junit(first instanceof Map ? named : [testResults: first])
            case 'recordIssues': return recordIssues(named)
            case 'script': return body()
            case 'timestamps': return body ? body() : null
            case 'lock': assert first instanceof CharSequence || named.resource; return body()
            case 'timeout': assert named.time instanceof Integer && named.unit in ['SECONDS', 'MINUTES', 'HOURS']; return body()
            case 'dir': return inside(new File(here, first as String), body)
            case 'withEnv': return withEnv(first as List, body)
            case 'withCredentials': return withCredentials(first as List, body)
        }
        Object found = library[name]
        if (found == null && config.vars && new File(config.vars as String, "${name}.groovy").exists()) {
            assert config.loaded, "the step ${name} is of a library that is not loaded"
            found = library[name] = shell.parse(new File(config.vars as String, "${name}.groovy"))
        }
        if (found != null) { return found.invokeMethod('call', args as Object[]) }
        throw new MissingMethodException(name, Machine, args as Object[])
    }

    /** As durable-task runs it: a script for `sh -xe`, with the cookie by which an abort finds its processes. */
    Object sh(Map named) {
        Set unknown = named.keySet() - ['script', 'label', 'returnStdout', 'returnStatus', 'encoding']
        assert !unknown, "sh has no parameter ${unknown}"
        File script = File.createTempFile('durable', '.sh')
        script.text = named.script.toString()
        ProcessBuilder builder = new ProcessBuilder('/bin/sh', '-xe', script.path)
        builder.directory(here)
        builder.environment().clear()
        builder.environment().putAll((config.env as Map) + env + [JENKINS_SERVER_COOKIE: cookie, WORKSPACE: config.workspace])
        if (!named.returnStdout) { builder.redirectOutput(ProcessBuilder.Redirect.INHERIT) }
        builder.redirectError(ProcessBuilder.Redirect.INHERIT)
        try {
            Process process = builder.start()
            process.outputStream.close()
            String out = named.returnStdout ? process.inputStream.getText('UTF-8') : null
            int status = process.waitFor()
            trace[-1].status = status
            if (aborted) { throw new Aborted() }
            if (named.returnStatus) { return status }
            if (status) { throw new Failed("script returned exit code ${status}") }
            return out
        } finally {
            script.delete()
        }
    }

    /** What a controller does: SIGTERM to every process that has the cookie in its environment. */
    void abort() {
        aborted = true
        new File('/proc').listFiles().findAll { it.name.isInteger() }.each { File process ->
            try {
                if (new File(process, 'environ').text.split('\0').contains("JENKINS_SERVER_COOKIE=${cookie}".toString())) {
                    ['kill', '-TERM', process.name].execute().waitFor()
                }
            } catch (IOException ignored) { }
        }
    }

    /** Files by patterns as core reads them: parted by commas, and then Ant's. */
    List<String> scan(String patterns) {
        List<String> regexes = patterns.split(',')*.trim().collect { regex(it) }
        List<String> found = []
        if (here.exists()) {
            here.eachFileRecurse(groovy.io.FileType.FILES) { File file ->
                String name = file.path.substring(here.path.length() + 1)
                if (regexes.any { name ==~ it }) { found << name }
            }
        }
        return found.sort()
    }

    static String regex(String pattern) {
        Map words = ['**/': '(?:.*/)?', '**': '.*', '*': '[^/]*', '?': '[^/]']
        pattern.replaceAll(/\*\*\/|\*\*|\*|\?|[^*?]+/) { String it -> words[it] ?: java.util.regex.Pattern.quote(it) }
    }

    Object archive(Map named) {
        Set unknown = named.keySet() - ['artifacts', 'fingerprint', 'allowEmptyArchive', 'onlyIfSuccessful', 'excludes']
        assert !unknown, "archiveArtifacts has no parameter ${unknown}"
        List<String> found = scan(named.artifacts as String)
        if (!found && !named.allowEmptyArchive) { throw new Failed("No artifacts found that match ${named.artifacts}") }
        found.each { String name ->
            File target = new File(config.archive as String, name)
            target.parentFile.mkdirs()
            target.bytes = new File(here, name).bytes
        }
        trace[-1].files = found
        return null
    }

    Object junit(Map named) {
        List<String> found = scan(named.testResults as String)
        if (!found && !named.allowEmptyResults) { throw new Failed('No test report files were found') }
        trace[-1].files = found
        found.each { new XmlSlurper().parse(new File(here, it)) }
        return null
    }

    Object recordIssues(Map named) {
        Set unknown = named.keySet() - ['tool', 'tools', 'enabledForFailure', 'qualityGates', 'aggregatingResults']
        assert !unknown, "recordIssues has no parameter ${unknown}"
        trace[-1].files = ((named.tools ?: [named.tool]) as List<Map>).collectMany { scan((it.values()[0] as Map).pattern as String) }
        return null
    }

    Object inside(File folder, Closure body) {
        File before = here
        here = folder
        try { return body() } finally { here = before }
    }

    Object withEnv(List pairs, Closure body) {
        Map before = new LinkedHashMap(env)
        pairs.each { String[] parts = it.toString().split('=', 2); env[parts[0]] = parts[1] }
        try { return body() } finally { env.keySet().retainAll(before.keySet()); env.putAll(before) }
    }

    Object withCredentials(List bindings, Closure body) {
        File folder = File.createTempDir()
        List<String> names = []
        try {
            bindings.each { Map it ->
                String secret = (config.secrets as Map)[it.credentialsId]
                if (secret == null) { throw new Failed("Could not find credentials entry with ID '${it.credentialsId}'") }
                assert it.kind == 'file', 'credentials are bound as files here'
                File kept = new File(folder, it.credentialsId as String)
                kept.text = secret
                names << (it.variable as String)
                env[it.variable as String] = kept.path
            }
            return body()
        } finally {
            names.each { env.remove(it) }
            folder.deleteDir()
        }
    }
}

/** What a script or a library's step stands on: each unknown word is asked of the machine. */
abstract class PipelineScript extends Script {
    static Machine machine

    Object getEnv() { machine.env }
    Object getParams() { machine.params }
    Object getScm() { 'scm' }
    Object getCurrentBuild() { machine }
    Object methodMissing(String name, Object args) { machine.step(name, args as List) }
    Object pipeline(Closure body) { new Declarative(machine: machine).run(body) }
}

/** A section that takes words down and runs them later. */
class Section {
    Map<String, List> found = [:]
    List<String> known = []
    Map<String, Object> assigned = [:]
    Machine machine

    Object methodMissing(String name, Object args) {
        if (name in Machine.DATA) { return [(name): (args as List)[0]] }
        assert name in known, "${name} is no word of this section; there are ${known.join(', ')}"
        assert !found.containsKey(name) || name in ['stage', 'booleanParam', 'string', 'choice'], "${name} is there twice"
        found.get(name, []) << (args as List)
        return null
    }
    Object propertyMissing(String name) { name == 'env' ? machine.env : name == 'params' ? machine.params : (name == 'scm' ? 'scm' : machine.env[name]) }
    void propertyMissing(String name, Object value) { assigned[name] = value }

    static Section of(Machine machine, List<String> known, Closure body) {
        Section section = new Section(machine: machine, known: known)
        body.delegate = section
        body.resolveStrategy = Closure.DELEGATE_FIRST
        body()
        return section
    }
    Closure body(String name) { found[name] ? found[name][0][-1] as Closure : null }
}

/** A declarative pipeline: read whole first, so that a wrong word is an error before anything runs. */
class Declarative {
    Machine machine
    static final List<String> CONDITIONS = ['always', 'changed', 'fixed', 'regression', 'aborted', 'failure', 'success', 'unstable', 'unsuccessful', 'cleanup']
    static final List<String> OPTIONS = ['skipDefaultCheckout', 'timestamps', 'timeout', 'disableConcurrentBuilds', 'buildDiscarder', 'retry', 'lock', 'ansiColor']

    void run(Closure body) {
        Section top = Section.of(machine, ['agent', 'options', 'environment', 'parameters', 'triggers', 'tools', 'stages', 'post'], body)
        assert top.found.agent && top.found.stages, 'a pipeline has an agent and stages'
        parameters(top.body('parameters'))
        Section agent = Section.of(machine, ['label', 'docker', 'node'], top.body('agent'))
        machine.note('agent', agent.found.label)
        if (top.body('options')) { machine.note('options', Section.of(machine, OPTIONS, top.body('options')).found) }
        environment(top.body('environment'))
        Map post = conditions(top.body('post'))
        List stages = Section.of(machine, ['stage'], top.body('stages')).found.stage.collect { read(it[0] as String, it[1] as Closure) }
        for (stage in stages) { perform(stage as Map) }
        finish(post)
    }

    /** Parameters with their values: steps see them as variables too, as on a controller. */
    void parameters(Closure body) {
        Section section = body ? Section.of(machine, ['string', 'booleanParam', 'choice'], body) : null
        for (row in section?.found?.string) {
            Map named = row[0] as Map
            Set unknown = named.keySet() - ['name', 'defaultValue', 'description', 'trim']
            assert !unknown, "string has no parameter ${unknown}"
            machine.params[named.name as String] = ((machine.config.params ?: [:]) as Map)[named.name] ?: named.defaultValue
        }
        machine.env.putAll(machine.params)
    }

    Map read(String name, Closure body) {
        Section section = Section.of(machine, ['agent', 'steps', 'post', 'when', 'environment', 'options'], body)
        assert section.found.steps, "the stage ${name} has no steps"
        return [name: name, section: section, post: conditions(section.body('post'))]
    }

    Map conditions(Closure body) { body ? Section.of(machine, CONDITIONS, body).found : [:] }

    void environment(Closure body) {
        if (body) { Section.of(machine, [], body).assigned.each { machine.env[it.key] = it.value.toString() } }
    }

    boolean wanted(Closure body) {
        if (!body) { return true }
        Section section = Section.of(machine, ['branch', 'changeRequest', 'tag'], body)
        return section.found.branch.every { (machine.env.BRANCH_NAME ?: '') ==~ Machine.regex(it[0] as String) }
    }

    void perform(Map stage) {
        Section section = stage.section as Section
        if (machine.result in ['FAILURE', 'ABORTED'] || !wanted(section.body('when'))) {
            machine.trace << [stage: stage.name, skipped: true]
            return
        }
        machine.trace << [stage: stage.name]
        Map before = new LinkedHashMap(machine.env)
        environment(section.body('environment'))
        Set own = machine.env.keySet() - before.keySet()
        attempt { steps(section.body('steps')) }
        finish(stage.post as Map)
        own.each { machine.env.remove(it) }
    }

    /** Steps look up their words in the machine; the script's own properties stay in reach. */
    void steps(Closure body) {
        body.resolveStrategy = Closure.DELEGATE_FIRST
        body.delegate = new Steps(machine: machine)
        body()
    }

    void attempt(Closure body) {
        try {
            body()
        } catch (Aborted ignored) {
            machine.result = 'ABORTED'
        } catch (Failed error) {
            System.err.println("ERROR: ${error.message}")
            if (machine.result != 'ABORTED') { machine.result = 'FAILURE' }
        }
    }

    void finish(Map post) {
        machine.aborted = false  // post steps of an aborted build do run
        Map holds = [always: true, success: machine.result == 'SUCCESS', failure: machine.result == 'FAILURE',
            aborted: machine.result == 'ABORTED', unsuccessful: machine.result != 'SUCCESS', cleanup: true]
        for (condition in CONDITIONS) {
            if (post[condition] && holds[condition]) {
                machine.trace << [post: condition]
                attempt { steps(post[condition][0][-1] as Closure) }
            }
        }
    }
}

class Steps {
    Machine machine
    Object methodMissing(String name, Object args) {
        List words = args as List
        // A step's own block sees the same words.
        words.findAll { it instanceof Closure }.each { Closure it -> it.delegate = this; it.resolveStrategy = Closure.DELEGATE_FIRST }
        return machine.step(name, words)
    }
    Object propertyMissing(String name) { name == 'env' ? machine.env : name == 'params' ? machine.params : (name == 'scm' ? 'scm' : machine.env[name]) }
}

Map config = new JsonSlurperClassic().parse(new File(args[0])) as Map
String source = new File(config.jenkinsfile as String).text
config.loaded = source =~ /(?m)^@Library\('buildstep'\) _$/
Machine machine = new Machine(config: config, here: new File(config.workspace as String))
machine.env.putAll((config.build_env ?: [:]) as Map)
CompilerConfiguration compiler = new CompilerConfiguration(scriptBaseClass: PipelineScript.name)
compiler.addCompilationCustomizers(new ImportCustomizer().addImports('com.cloudbees.groovy.cps.NonCPS', 'org.jenkinsci.plugins.workflow.libs.Library'))
GroovyClassLoader loader = new GroovyClassLoader(this.class.classLoader)
['com.cloudbees.groovy.cps': '@interface NonCPS {}', 'org.jenkinsci.plugins.workflow.libs': '@interface Library { String[] value() }'].each { name, text ->
    loader.parseClass("package ${name}\n${text}")
}
machine.shell = new GroovyShell(loader, new Binding(), compiler)
PipelineScript.machine = machine
if (config.abort_when) {
    Thread.startDaemon {
        while (!new File(config.abort_when as String).exists()) { Thread.sleep(20) }
        machine.abort()
    }
}
int status = 0
try {
    machine.shell.parse(source, 'Jenkinsfile').run()
} catch (Throwable error) {
    machine.result = 'ERROR'
    machine.trace << [error: error.toString()]
    org.codehaus.groovy.runtime.StackTraceUtils.sanitize(error).printStackTrace()
}
new File(config.trace as String).text = JsonOutput.toJson([result: machine.result, trace: machine.trace, env: machine.env])
System.exit(machine.result == 'SUCCESS' ? 0 : 1)
