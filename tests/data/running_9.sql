BEGIN TRANSACTION;
CREATE TABLE branch (pk INTEGER PRIMARY KEY, parent INTEGER, fork INTEGER);
INSERT INTO "branch" VALUES(1,NULL,NULL);
INSERT INTO "branch" VALUES(2,NULL,NULL);
INSERT INTO "branch" VALUES(3,NULL,NULL);
CREATE TABLE claim (
        token INTEGER NOT NULL, hash TEXT NOT NULL, fingerprint TEXT NOT NULL, response TEXT NOT NULL, worker INTEGER,
        created_at INTEGER NOT NULL, PRIMARY KEY (token, hash)
        ) WITHOUT ROWID;
INSERT INTO "claim" VALUES(2,'a4c3ed04a95a3da14a9d235c83d868bed7c0f45cf7f3faa751ee8f50598d2211','1c257432ae0c82094fb51e7a8ba2a9e702e1715e3161d5bc308fa65bd195f002','resp_6b080863633ac7a06e2d043f70202591fe9ddb3d0813a3a7',1,1795688547);
INSERT INTO "claim" VALUES(2,'c071cf5f5ed6f884cc70155b6f05f755fd46a302d05e4261b7e92ce878bbfed8','415be3bfa200d12941b5257c6a411f312d1a9eada10e4cab82b7ac1a725702d1','resp_6b0808633a4e11dd3aa93bd7de48e54f33f451ceae8aebf5',1,1795688547);
CREATE TABLE content (response INTEGER PRIMARY KEY, input TEXT NOT NULL, output TEXT);
INSERT INTO "content" VALUES(1,'[{"type":"message","role":"user","content":[{"type":"input_text","text":"My name is Ada."}]}]','[{"id":"msg_8e669e0fd08dc0feac18ac3917db53b496e00e1475ed0dde","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","text":"You said: My name is Ada.. I have seen 1 items.","annotations":[],"logprobs":[]}]}]');
INSERT INTO "content" VALUES(2,'[{"type":"message","role":"user","content":[{"type":"input_text","text":"Once, please."}]}]','[{"id":"msg_e73aa68d2dbaf24368d264cf2173dcf3202c33186bc17194","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","text":"You said: Once, please.. I have seen 1 items.","annotations":[],"logprobs":[]}]}]');
INSERT INTO "content" VALUES(3,'[{"role":"user","content":"word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word ","type":"message"},{"role":"user","content":"word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word ","type":"message"},{"role":"user","content":"word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word ","type":"message"}]','[{"id":"msg_6b080863a16bd70ddf60b45a5de6490e0a5694c9301739d0","role":"user","content":[{"type":"input_text","text":"word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word "}],"type":"message","status":"completed"},{"id":"msg_6b080863c536a69c0d3a8f8887854b0e02c02327c0df6502","role":"user","content":[{"type":"input_text","text":"word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word "}],"type":"message","status":"completed"},{"id":"msg_6b080863db224868bd1084b2386d42b6f5b45c5766f829d1","role":"user","content":[{"type":"input_text","text":"word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word word "}],"type":"message","status":"completed"},{"type":"compaction","id":"cmp_6b080863de8d23d5bbeea2cd1360bc1e715be599ad12d630","encrypted_content":"antiphon.1.498b4dd0.UFNQAl3PRBaBfsXvesYfZCxD4YcQnOESeGodPxfbWSzAMlESoEiioZ1GCf4iKESHL4QndNtzvNGKt5wsoSAJ5oqZawbA7VewXwkwjsAw-LmowCrmSDijNyBU8Hl_S2Aeygg2Lts9RKr07YpJAZ3nV5OMwAUc7tcVGXH530-4w31IKe_a00V3X_0P_QRn73461buDhiQ2ENVv18LoV47b53ZCVOOFB9JXQQgIMCi3Z-GjTDFyN_hdPeS-XSugja20bBdH7LkBPiUiaOyh-12u23tu0b3Jr02ALCqicX1ngKVJ5rEltHZ-4aq9wq8EASyJELQYNmgTXaquPwZnA3sftopRa_Own6rPqCBfEqtnTa0wrcc6o4pFqD4n_nwg_bsToaNM4yL50OTjc5vsvI8LKE7S9apDtcPT7ZcSXMMnMMZ02OLMtUm829vsQ3I3X85-stqlXnVQrG11_L4AJYqGp2jtTJJB-8NcrfjbJ_FNK2gPA6zc60sdyU8cBB7nDAPCTccExGXNBdHFBICZ5-hyjsJIQLXOfl0xzldJSiM5v83zA3QdhIE1DQMLXucY6CdW-pKnXfWaFoO2juclZt6nHSlG9eHsoRHGlFrO0N2dXFOwY4_mvyHyaCUG3ls_oQejMHUji5k4bLIniVfcHkPVyT6QN8ugCnTrloURWmP1vCSV7jbw3QJ9m-2X60Y01VbtWBJwQ_-yxMML6okQukV0bTxfI7D1c_WEZEPAAw6ngqw-A2utJttGHECFZ5I0EZ28-m81y2hgyelIRNI="}]');
INSERT INTO "content" VALUES(6,'[{"type":"message","role":"user","content":[{"type":"input_text","text":"And in the background?"}]}]',NULL);
INSERT INTO "content" VALUES(7,'[{"type":"message","role":"user","content":[{"type":"input_text","text":"To be cancelled"}]}]',NULL);
INSERT INTO "content" VALUES(8,'[{"type":"message","role":"user","content":[{"type":"input_text","text":"A long one."}]}]',NULL);
CREATE TABLE conversation (
        pk INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, created_at INTEGER NOT NULL, metadata TEXT NOT NULL,
        newest INTEGER NOT NULL
        );
INSERT INTO "conversation" VALUES(1,'conv_6b0808635237c17096fbf73bb648109af03b2ffde4dfe9d1','tests',1795688547,'{}',1);
CREATE TABLE conversation_item (
        owner TEXT NOT NULL, id TEXT NOT NULL, conversation INTEGER NOT NULL, position INTEGER NOT NULL,
        PRIMARY KEY (owner, id, conversation)
        ) WITHOUT ROWID;
INSERT INTO "conversation_item" VALUES('tests','msg_6b08086311a839fcf7988b2a013da99bdaa692b8795a70d8',1,1);
CREATE TABLE conversation_turn (
        pk INTEGER PRIMARY KEY, conversation INTEGER NOT NULL, position INTEGER NOT NULL, seen INTEGER NOT NULL, compacted INTEGER NOT NULL DEFAULT 0,
        opaque INTEGER NOT NULL DEFAULT 0, response TEXT, status TEXT NOT NULL, channel TEXT, family TEXT, input_tokens INTEGER,
        output_tokens INTEGER, created_at INTEGER NOT NULL, input TEXT NOT NULL, output TEXT NOT NULL,
        CONSTRAINT conversation_position UNIQUE (conversation, position)
        );
INSERT INTO "conversation_turn" VALUES(1,1,1,0,0,0,NULL,'completed',NULL,NULL,NULL,NULL,1795688547,'[{"role":"user","content":"It began here.","type":"message","id":"msg_6b08086311a839fcf7988b2a013da99bdaa692b8795a70d8"}]','[]');
CREATE TABLE event (
        response INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, body TEXT NOT NULL,
        kept_at INTEGER NOT NULL, PRIMARY KEY (response, first)
        ) WITHOUT ROWID;
INSERT INTO "event" VALUES(6,0,1,'event: response.created
data: {"type":"response.created","sequence_number":0,"response":{"id":"resp_6b080863bd47bf0feaf7bb12455d3ae842bccde33be5235f","object":"response","created_at":1795688547,"status":"queued","completed_at":null,"error":null,"incomplete_details":null,"model":"m","previous_response_id":"resp_6b0808637baaee96a895935df79ada0e7ee7885adda13395","background":true,"frequency_penalty":0.0,"instructions":null,"max_output_tokens":null,"max_tool_calls":null,"metadata":{},"parallel_tool_calls":true,"presence_penalty":0.0,"prompt_cache_key":null,"prompt_cache_retention":null,"reasoning":{"effort":null,"summary":null},"safety_identifier":null,"service_tier":"default","store":true,"temperature":1.0,"text":{"format":{"type":"text"},"verbosity":"medium"},"tool_choice":"auto","tools":[],"top_logprobs":0,"top_p":1.0,"truncation":"disabled","user":null,"output":[],"usage":null}}

event: response.queued
data: {"type":"response.queued","sequence_number":1,"response":{"id":"resp_6b080863bd47bf0feaf7bb12455d3ae842bccde33be5235f","object":"response","created_at":1795688547,"status":"queued","completed_at":null,"error":null,"incomplete_details":null,"model":"m","previous_response_id":"resp_6b0808637baaee96a895935df79ada0e7ee7885adda13395","background":true,"frequency_penalty":0.0,"instructions":null,"max_output_tokens":null,"max_tool_calls":null,"metadata":{},"parallel_tool_calls":true,"presence_penalty":0.0,"prompt_cache_key":null,"prompt_cache_retention":null,"reasoning":{"effort":null,"summary":null},"safety_identifier":null,"service_tier":"default","store":true,"temperature":1.0,"text":{"format":{"type":"text"},"verbosity":"medium"},"tool_choice":"auto","tools":[],"top_logprobs":0,"top_p":1.0,"truncation":"disabled","user":null,"output":[],"usage":null}}

',1795688547);
INSERT INTO "event" VALUES(7,0,1,'event: response.created
data: {"type":"response.created","sequence_number":0,"response":{"id":"resp_6b08086315ab16711874d4e174d1ddb3c1c6db83bdda4a37","object":"response","created_at":1795688547,"status":"queued","completed_at":null,"error":null,"incomplete_details":null,"model":"m","previous_response_id":null,"background":true,"frequency_penalty":0.0,"instructions":null,"max_output_tokens":null,"max_tool_calls":null,"metadata":{},"parallel_tool_calls":true,"presence_penalty":0.0,"prompt_cache_key":null,"prompt_cache_retention":null,"reasoning":{"effort":null,"summary":null},"safety_identifier":null,"service_tier":"default","store":true,"temperature":1.0,"text":{"format":{"type":"text"},"verbosity":"medium"},"tool_choice":"auto","tools":[],"top_logprobs":0,"top_p":1.0,"truncation":"disabled","user":null,"output":[],"usage":null}}

event: response.queued
data: {"type":"response.queued","sequence_number":1,"response":{"id":"resp_6b08086315ab16711874d4e174d1ddb3c1c6db83bdda4a37","object":"response","created_at":1795688547,"status":"queued","completed_at":null,"error":null,"incomplete_details":null,"model":"m","previous_response_id":null,"background":true,"frequency_penalty":0.0,"instructions":null,"max_output_tokens":null,"max_tool_calls":null,"metadata":{},"parallel_tool_calls":true,"presence_penalty":0.0,"prompt_cache_key":null,"prompt_cache_retention":null,"reasoning":{"effort":null,"summary":null},"safety_identifier":null,"service_tier":"default","store":true,"temperature":1.0,"text":{"format":{"type":"text"},"verbosity":"medium"},"tool_choice":"auto","tools":[],"top_logprobs":0,"top_p":1.0,"truncation":"disabled","user":null,"output":[],"usage":null}}

',1795688547);
CREATE TABLE huey_task (id INTEGER PRIMARY KEY, queue TEXT NOT NULL, data BLOB NOT NULL, priority REAL NOT NULL);
INSERT INTO "huey_task" VALUES(1,'antiphon',X'726573705F366230383038363362643437626630666561663762623132343535643361653834326263636465333362653532333566',0.0);
INSERT INTO "huey_task" VALUES(2,'antiphon',X'726573705F366230383038363331356162313637313138373464346531373464316464623363316336646238336264646134613337',0.0);
CREATE TABLE item (owner TEXT NOT NULL, id TEXT NOT NULL, response INTEGER NOT NULL, PRIMARY KEY (owner, id, response)) WITHOUT ROWID;
INSERT INTO "item" VALUES('tests','cmp_6b080863de8d23d5bbeea2cd1360bc1e715be599ad12d630',3);
INSERT INTO "item" VALUES('tests','msg_6b080863a16bd70ddf60b45a5de6490e0a5694c9301739d0',3);
INSERT INTO "item" VALUES('tests','msg_6b080863c536a69c0d3a8f8887854b0e02c02327c0df6502',3);
INSERT INTO "item" VALUES('tests','msg_6b080863db224868bd1084b2386d42b6f5b45c5766f829d1',3);
INSERT INTO "item" VALUES('tests','msg_8e669e0fd08dc0feac18ac3917db53b496e00e1475ed0dde',1);
INSERT INTO "item" VALUES('tests','msg_e73aa68d2dbaf24368d264cf2173dcf3202c33186bc17194',2);
CREATE TABLE job (
        response INTEGER PRIMARY KEY, request TEXT NOT NULL, runs INTEGER NOT NULL DEFAULT 0, created_at INTEGER NOT NULL,
        rung_at INTEGER NOT NULL
        );
INSERT INTO "job" VALUES(6,'antiphon.1.aff55f7b.JJx1TJlZRNEcd5dVeR0loGVeH-ql0BgB_m6qf3B2OnX9QLtmq3_mqqeIp-RUdx9LRypmnCZP2HXMRRQXAlo1GMD5Hlfnav79iN0zp4UfJKpsFSaRDbYJXvb6xu-hZK6jkdmuFzbmFGTRtQXTSA9-hOecibvp0dfkk3ZLlR0yWPrGaYTOSu2Ge19Z6hmr9PCSW4wbMYNuoNES5KUaKmkMjVIMuEn87sb0Blym4CIj-uV0NQwMXiSwGWcVKqvA-9VhSURMLadb5vbDlLufXgFrrMeEwdzBEkYy11G7IXuK5oVBqV-icpdXraE8Ivf0KVxNfGYoFtT5uw==',0,1795688547,1795688547);
INSERT INTO "job" VALUES(7,'antiphon.1.aff55f7b.v3IXvw2hq9X1NR2gXnqD8NKQhLbOsP-h78CBGlal61hwO-N-1ngdNteb-HYA4qdWbGd2TJa-UModa1z2S2rqce1ZradvxXfRGtJN1z_1fdO3XCf3RYxHudhQOuwF71mMfFZG3KgJKk_jGFQbtLd5QV2inWTNmhpTcPFGi7FUkxM-qnLanD98bZmWUlgEWDe3t3g4ZUA64u1XJx_X4sf0jIw=',0,1795688547,1795688547);
CREATE TABLE migration_lease (one INTEGER NOT NULL PRIMARY KEY, holder TEXT NOT NULL, lease_until INTEGER NOT NULL);
INSERT INTO "migration_lease" VALUES(1,'ef0624603daa48cc',0);
CREATE TABLE prefix (token INTEGER NOT NULL, hash TEXT NOT NULL, response INTEGER NOT NULL, PRIMARY KEY (token, hash)) WITHOUT ROWID;
CREATE TABLE response (
        pk INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, parent INTEGER, branch INTEGER, depth INTEGER,
        since INTEGER NOT NULL DEFAULT 0, status TEXT NOT NULL, kept INTEGER NOT NULL DEFAULT 0, streamed INTEGER NOT NULL DEFAULT 0, opaque INTEGER NOT NULL DEFAULT 0,
        estimated INTEGER NOT NULL DEFAULT 0, token INTEGER, model TEXT NOT NULL, channel TEXT, family TEXT, upstream_model TEXT,
        upstream_id TEXT, worker INTEGER, request_id TEXT, created_at INTEGER NOT NULL, completed_at INTEGER,
        deleted_at INTEGER, first_byte_ms INTEGER, total_ms INTEGER, input_tokens INTEGER, cached_tokens INTEGER,
        cache_write_tokens INTEGER, output_tokens INTEGER, reasoning_tokens INTEGER, settings INTEGER, echo TEXT,
        error TEXT, incomplete_details TEXT, attempts TEXT, compaction TEXT, continued_at INTEGER, conversation TEXT, seen INTEGER, inferred INTEGER,
        CONSTRAINT response_place UNIQUE (branch, depth)
        );
INSERT INTO "response" VALUES(1,'resp_6b0808637baaee96a895935df79ada0e7ee7885adda13395','tests',NULL,1,1,0,'completed',1,0,0,0,2,'m','works','works','m-2026-01-01','resp_3bd0639b6a523a1e7e2a7c87d297a3e68fd056950156ca07',NULL,'req_f548730eba7c2dfcf48ecc1815c8840b',1795688547,1795688547,NULL,NULL,10,25,0,0,6,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "response" VALUES(2,'resp_6b080863633ac7a06e2d043f70202591fe9ddb3d0813a3a7','tests',NULL,2,1,0,'completed',1,0,0,0,2,'m','works','works','m-2026-01-01','resp_2e92fadb95f261b8922933867f6efb561e24c95e58773cf8',NULL,'req_39f22e33258b800b4f90615c6b68ac54',1795688547,1795688547,NULL,NULL,1,24,0,0,6,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "response" VALUES(3,'resp_6b080863a8eae46bca9cd0a37977a3b0fe72e484dab4cc74','tests',NULL,3,1,1,'completed',1,0,1,0,2,'m','works',NULL,NULL,NULL,NULL,'req_005e007514f4717560e959f044b8c410',1795688547,1795688547,NULL,NULL,3,348,0,0,13,0,NULL,NULL,NULL,NULL,NULL,'{"strategy":"summary","channel":"works","before":222,"after":137,"usage":{"input_tokens":348,"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":0},"output_tokens":13,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":361}}',NULL,NULL,NULL,NULL);
INSERT INTO "response" VALUES(4,'resp_6b080863c303d2222bf96282da5abb925e1381f7eaa6bf55','tests',NULL,NULL,NULL,0,'failed',0,0,0,0,2,'tired',NULL,NULL,NULL,NULL,NULL,'req_9f13937babb2f57a57287bf70a1c88db',1795688547,1795688547,NULL,NULL,4,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'{"message":"","type":null,"code":"upstream_error"}',NULL,'[{"channel":"tired","ms":4,"status":502,"error":"upstream_error","said":"broken"}]',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "response" VALUES(5,'resp_6b080863b894663a1d6b6bd3fcb3337fa38508fe189b0a28','tests',NULL,NULL,NULL,0,'failed',0,0,0,0,2,'half',NULL,NULL,NULL,NULL,NULL,'req_c8972394d7a4a89bc43ed3e490622962',1795688547,1795688547,NULL,NULL,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'{"message":"","type":null,"code":"upstream_error"}',NULL,'[{"channel":"half","ms":1,"status":502,"error":"upstream_error","said":"broken"}]',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "response" VALUES(6,'resp_6b080863bd47bf0feaf7bb12455d3ae842bccde33be5235f','tests',1,NULL,NULL,0,'queued',1,0,0,0,2,'m',NULL,NULL,NULL,NULL,NULL,'req_56b381a908ac025839b506a20f1062c4',1795688547,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'{"background":true}',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "response" VALUES(7,'resp_6b08086315ab16711874d4e174d1ddb3c1c6db83bdda4a37','tests',NULL,NULL,NULL,0,'queued',1,0,0,0,2,'m',NULL,NULL,NULL,NULL,NULL,'req_18bf21b08f973e1b6e45dee96a6b1da8',1795688547,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'{"background":true}',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "response" VALUES(8,'resp_6b0808633a4e11dd3aa93bd7de48e54f33f451ceae8aebf5','tests',NULL,NULL,NULL,0,'in_progress',1,1,0,0,2,'m',NULL,NULL,NULL,NULL,1,'req_e09d5d6f58f9ede2b01a3cf2c71bfd3b',1795688547,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE schema_version (version INTEGER NOT NULL PRIMARY KEY, applied_at INTEGER NOT NULL, additive INTEGER NOT NULL DEFAULT 0);
INSERT INTO "schema_version" VALUES(1,1795688546,0);
INSERT INTO "schema_version" VALUES(2,1795688546,1);
INSERT INTO "schema_version" VALUES(3,1795688546,1);
INSERT INTO "schema_version" VALUES(4,1795688546,1);
INSERT INTO "schema_version" VALUES(5,1795688546,1);
INSERT INTO "schema_version" VALUES(6,1795688546,1);
INSERT INTO "schema_version" VALUES(7,1795688546,1);
INSERT INTO "schema_version" VALUES(8,1795688546,1);
INSERT INTO "schema_version" VALUES(9,1795688546,1);
CREATE TABLE setting (pk INTEGER PRIMARY KEY, owner TEXT NOT NULL, sha256 TEXT NOT NULL, json TEXT NOT NULL, UNIQUE (owner, sha256));
CREATE TABLE token (
        pk INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, hash TEXT NOT NULL UNIQUE,
        prefix TEXT NOT NULL, models TEXT NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER,
        revoked_at INTEGER, last_used_at INTEGER, keeps INTEGER NOT NULL DEFAULT 0
        );
INSERT INTO "token" VALUES(1,'admin','admin','96e62dedf7f7540eacc21a7b7352b59a06d17b9fb780c7cc184c047e06eb5412','ap_IYTGuz','[]',1795688546,NULL,NULL,NULL,1);
INSERT INTO "token" VALUES(2,'tests','tests','e698dd8e39b1dc1849461ad8d4822aa41977e9b77358218480fb19b14711441a','ap_yU6vJ4','[]',1795688546,NULL,NULL,1795688547,1);
CREATE TABLE usage_day (
        day TEXT NOT NULL, token INTEGER NOT NULL, model TEXT NOT NULL, channel TEXT NOT NULL,
        requests INTEGER NOT NULL, failed INTEGER NOT NULL, estimated INTEGER NOT NULL, input_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL, cache_write_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
        reasoning_tokens INTEGER NOT NULL, PRIMARY KEY (day, token, model, channel)
        ) WITHOUT ROWID;
INSERT INTO "usage_day" VALUES('2026-11-26',2,'half','',1,1,0,0,0,0,0,0);
INSERT INTO "usage_day" VALUES('2026-11-26',2,'m','works',3,0,0,397,0,0,25,0);
INSERT INTO "usage_day" VALUES('2026-11-26',2,'tired','',1,1,0,0,0,0,0,0);
CREATE TABLE worker (pk INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, started INTEGER NOT NULL, lease_until INTEGER NOT NULL, status TEXT, status_at INTEGER, background INTEGER NOT NULL DEFAULT 0);
INSERT INTO "worker" VALUES(1,'old:30425:d10a089e',1795688547,1795688611,'{"channels":[{"name":"works","in_flight":1,"failures":0,"rests":0,"resting":0.0,"on_trial":false,"last_error":null,"path":"bytes"},{"name":"tired","in_flight":0,"failures":0,"rests":1,"resting":296.07148318799955,"on_trial":true,"last_error":"upstream_error","path":""},{"name":"half","in_flight":0,"failures":0,"rests":1,"resting":0.0,"on_trial":true,"last_error":"upstream_error","path":""}],"server":{"secret_key":"9af425e0266b","database":"bffb9ddfc3c9","channels":"a692a9873c44","bind":"127.0.0.1:40439","table":"/srv/antiphon/channels.yaml"}}',1795688551,0);
CREATE INDEX response_worker ON response (worker) WHERE worker IS NOT NULL;
CREATE INDEX response_settings ON response (settings) WHERE settings IS NOT NULL;
CREATE INDEX branch_parent ON branch (parent, fork) WHERE parent IS NOT NULL;
CREATE INDEX worker_lease ON worker (lease_until);
CREATE INDEX response_parent ON response (parent) WHERE parent IS NOT NULL;
CREATE INDEX claim_created ON claim (created_at);
CREATE INDEX event_kept ON event (kept_at);
CREATE INDEX huey_task_order ON huey_task (priority DESC, id);
CREATE INDEX conversation_compaction ON conversation_turn (conversation, compacted, position) WHERE compacted = 1;
CREATE INDEX response_inferred ON response (inferred) WHERE inferred IS NOT NULL;
CREATE INDEX prefix_response ON prefix (response);
COMMIT;
