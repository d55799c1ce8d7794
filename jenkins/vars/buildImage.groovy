/**
 * One step that builds an image in the agent and archives it: buildImage(manifest: 'm.json', proto: 'proto/').
 *
 * Returns what `bin/build --json` prints, as a map: uuid, manifest, record, files, steps, tree_digest, seconds, sources.
 * Sets env.BUILDSTEP_MANIFEST and env.BUILDSTEP_RECORD, for stages that publish or report.
 * docs/how-to/jenkins.md tells every parameter; an unknown one is an error before anything runs.
 */
import com.cloudbees.groovy.cps.NonCPS
import groovy.transform.Field

@Field static final Map DEFAULTS = [
    manifest: null, proto: null, image: null, packages: [], formats: [], output: 'bits', prefix: null, pool: null,
    define: [:], flags: [], env: [:], tool: null, lock: true, timeoutMinutes: 120, archive: true, report: false,
]

def call(Map given = [:]) {
    List<String> faults = faultsOf(given)
    if (faults) {
        error("buildImage: ${faults.join('; ')}")
    }
    Map options = DEFAULTS + given
    options.tool = options.tool ?: withEnv(variables(options)) { findTool() }
    Map result = guarded(options) {
        parse(sh(label: "build ${options.manifest}", returnStdout: true, script: command(options)))
    }
    env.BUILDSTEP_MANIFEST = result.manifest
    env.BUILDSTEP_RECORD = result.record
    if (options.archive) {
        archiveArtifacts(artifacts: patterns(options, result), fingerprint: true)
    }
    if (options.report) {
        String stem = "${options.output}/reports/${baseName(result.record)}"
        withEnv(variables(options)) { sh(label: 'render reports', script: reports(options, result, stem)) }
        junit(testResults: antPath("${stem}.junit.xml"), allowEmptyResults: true)
        recordIssues(enabledForFailure: true, tool: issues(pattern: antPath("${stem}.issues.json"), id: 'buildstep', name: 'Image'))
        archiveArtifacts(artifacts: antPath("${stem}.html"), allowEmptyArchive: true)
    }
    return result
}

/** What builds: bin/build where the workspace is a checkout of buildstep itself, else the agent's buildstep. */
String findTool() {
    if (fileExists('bin/build') && fileExists('jenkins/vars/buildImage.groovy')) {
        return 'bin/build'
    }
    if (sh(label: 'is buildstep here?', returnStatus: true, script: 'command -v buildstep >/dev/null') != 0) {
        error("buildImage: there is no buildstep on the PATH of ${env.NODE_NAME}: make a link to bin/buildstep of a " +
            'checkout there, or give the path of its bin/build as the parameter tool')
    }
    return 'buildstep'
}

/** Whether a tool is bin/build of a checkout; else it is buildstep, which takes every command. */
@NonCPS
boolean isBuild(String tool) {
    return tool.substring(tool.lastIndexOf('/') + 1) == 'build'
}

/** The body under a lock for the dataset and a time limit, where they are wanted. */
def guarded(Map options, Closure body) {
    def limited = body
    if (options.timeoutMinutes) {
        limited = { timeout(time: options.timeoutMinutes as int, unit: 'MINUTES') { body() } }
    }
    if (!options.lock) {
        return withEnv(variables(options)) { limited() }
    }
    // Builds of one pool are safe side by side; one at a time is quicker, as they would wait for one disk.
    String resource = options.lock instanceof CharSequence ? options.lock : "buildstep-${env.NODE_NAME}-${options.pool ?: 'default'}"
    return lock(resource: resource) { withEnv(variables(options)) { limited() } }
}

@NonCPS
List<String> faultsOf(Map given) {
    List<String> faults = []
    for (key in given.keySet()) {
        if (!DEFAULTS.containsKey(key as String)) {
            faults << "there is no parameter ${key}; there are ${DEFAULTS.keySet().sort().join(', ')}".toString()
        }
    }
    for (key in ['manifest', 'proto']) {
        if (!given[key]) {
            faults << "the parameter ${key} is missing".toString()
        }
    }
    for (key in ['packages', 'formats', 'flags']) {
        if (given[key] != null && !(given[key] instanceof List)) {
            faults << "${key} is not a list".toString()
        }
    }
    for (key in ['define', 'env']) {
        if (given[key] != null && !(given[key] instanceof Map)) {
            faults << "${key} is not a map".toString()
        }
    }
    return faults
}

/** The shell command. `exec`: an abort's signal reaches the build, and no shell in front of it. */
@NonCPS
String command(Map options) {
    List<String> argv = isBuild(options.tool) ? [options.tool] : [options.tool, 'build']
    argv.addAll(['--manifest', options.manifest, '--output-dir', options.output, '--json'])
    for (pair in [['--image', options.image], ['--image-prefix', options.prefix], ['--pool', options.pool]]) {
        if (pair[1]) {
            argv.addAll(pair)
        }
    }
    if (options.packages) {
        argv.addAll(['--packages', options.packages.join(',')])
    }
    for (format in options.formats) {
        argv.addAll(['--format', format])
    }
    for (entry in options.define.entrySet()) {
        argv.addAll(['-D', "${entry.key}=${entry.value}"])
    }
    argv.addAll(options.flags)
    argv.addAll(['--', options.proto])
    return 'exec ' + words(argv)
}

@NonCPS
String reports(Map options, Map result, String stem) {
    String tool = isBuild(options.tool) ? "${options.tool}step" : options.tool
    String record = result.record
    return 'mkdir -p ' + words(["${options.output}/reports"]) + '\n' +
        words([tool, 'report', record, '-f', 'junit', '-o', "${stem}.junit.xml"]) + '\n' +
        words([tool, 'report', record, '-f', 'warnings-ng', '-o', "${stem}.issues.json"]) + '\n' +
        words([tool, 'report', record, '-f', 'html', '-o', "${stem}.html"])
}

/** Arguments as a shell takes them apart again, whatever is in them. */
@NonCPS
String words(List argv) {
    List<String> quoted = []
    for (word in argv) {
        quoted << "'" + word.toString().replace("'", "'\\''") + "'"
    }
    return quoted.join(' ')
}

@NonCPS
List<String> variables(Map options) {
    List<String> pairs = []
    for (entry in options.env.entrySet()) {
        pairs << "${entry.key}=${entry.value}".toString()
    }
    return pairs
}

/** The files of the image as patterns below the workspace; the tool tells absolute paths. */
@NonCPS
String patterns(Map options, Map result) {
    List<String> names = [result.manifest, result.record]
    for (file in result.files) {
        names << file.path
    }
    names.addAll(result.trust ?: [])
    List<String> found = []
    for (name in names) {
        found << antPath("${options.output}/${name.substring(name.lastIndexOf('/') + 1)}")
    }
    return found.join(',')
}

/** A path as a pattern that fits it: commas part patterns, and there is no way to quote them. */
@NonCPS
String antPath(String path) {
    return path.replaceAll('[,*?]', '?')
}

@NonCPS
String baseName(String path) {
    return path.substring(path.lastIndexOf('/') + 1).replaceAll('\\.buildrecord\\.json$', '')
}

@NonCPS
Map parse(String text) {
    return new groovy.json.JsonSlurperClassic().parseText(text) as Map
}
