/*
 * Judges the signature of a request with npm's http-signature, which IMGAPI servers use.
 *
 *     node signature.js PUBLIC-KEY < REQUEST        (NODE_PATH: where http-signature is)
 *
 * REQUEST: a JSON object with method, url and headers. Prints what was found in it; status 1 for a wrong one.
 */
'use strict';
const fs = require('fs');
const httpSignature = require('http-signature');

const request = JSON.parse(fs.readFileSync(0, 'utf8'));
const parsed = httpSignature.parseRequest(request);
const good = httpSignature.verifySignature(parsed, fs.readFileSync(process.argv[2], 'utf8'));
console.log(JSON.stringify({ good, keyId: parsed.keyId, algorithm: parsed.algorithm, signed: parsed.params.headers }));
process.exit(good ? 0 : 1);
