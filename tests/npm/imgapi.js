/*
 * Speaks to an IMGAPI server with Triton's own client, and says what it was answered.
 *
 *     node imgapi.js URL KEYFILE MANIFEST FILE      (NODE_PATH: where sdc-clients is)
 *
 * Prints one JSON object: the answer to each call.
 */
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const IMGAPI = require('sdc-clients').IMGAPI;

const [url, key, manifestFile, file] = process.argv.slice(2);
const manifest = JSON.parse(fs.readFileSync(manifestFile, 'utf8'));
const uuid = manifest.uuid;

function sign(text, callback) {
    const signature = crypto.createSign('RSA-SHA256').update(text).sign(fs.readFileSync(key), 'base64');
    callback(null, { algorithm: 'rsa-sha256', signature });
}

const client = new IMGAPI({ url, user: 'ann', sign, version: '~2', agent: false });

function call(name, ...args) {
    return new Promise((resolve, reject) => {
        client[name](...args, (err, value) => err ? reject(err) : resolve(value));
    });
}

async function main() {
    const told = {};
    told.ping = await call('ping');
    told.imported = await call('adminImportImage', manifest, {});
    const sha1 = crypto.createHash('sha1').update(fs.readFileSync(file)).digest('hex');
    told.added = await call('addImageFile', { uuid, file, compression: 'none', sha1 });
    told.activated = await call('activateImage', uuid);
    told.listed = await call('listImages', { name: manifest.name });
    told.got = await call('getImage', uuid);
    const stream = await call('getImageFileStream', uuid);
    const chunks = [];
    stream.on('data', (chunk) => chunks.push(chunk));
    await new Promise((resolve) => { stream.on('end', resolve); stream.resume(); });
    told.file = Buffer.concat(chunks).toString('base64');
    await call('deleteImage', uuid);
    told.gone = await call('getImage', uuid).then(() => 'there', (err) => err.body && err.body.code);
    console.log(JSON.stringify(told));
    process.exit(0);
}

main().catch((err) => { console.error(err.stack); process.exit(1); });
