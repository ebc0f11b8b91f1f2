-- Written by commit 90e1dd7 (schema 8) through its own API: init, then the requests whose answers are in schema_8.json.
BEGIN TRANSACTION;
CREATE TABLE branch (pk INTEGER PRIMARY KEY, parent INTEGER, fork INTEGER);
INSERT INTO "branch" VALUES(1,NULL,NULL);
INSERT INTO "branch" VALUES(2,1,2);
INSERT INTO "branch" VALUES(3,1,1);
INSERT INTO "branch" VALUES(4,NULL,NULL);
INSERT INTO "branch" VALUES(5,NULL,NULL);
INSERT INTO "branch" VALUES(6,NULL,NULL);
CREATE TABLE claim (
        token INTEGER NOT NULL, hash TEXT NOT NULL, fingerprint TEXT NOT NULL, response TEXT NOT NULL, worker INTEGER,
        created_at INTEGER NOT NULL, PRIMARY KEY (token, hash)
        ) WITHOUT ROWID;
INSERT INTO "claim" VALUES(1,'762c08fc17a1cc5f00d248f8b50f2f2f4d17ff2934ac31e64deacb3f5bb3f2ec','c327e77bd41069f76fc43f4178c91a88cc7764d54b9caedb8f23ebf0417698cc','resp_6b07eecef6f51262d61bba508d9e11f11f8c2687978b6eed',2,1795681998);
CREATE TABLE content (response INTEGER PRIMARY KEY, input TEXT NOT NULL, output TEXT);
INSERT INTO "content" VALUES(1,'[{"type":"message","role":"user","content":[{"type":"input_text","text":"My name is Ada."}]}]','[{"type":"message","id":"msg_6b07eece03f4ac8bd7db39bf33de11fb96025d60ada8cb16","status":"completed","role":"assistant","content":[{"type":"output_text","text":"Hello! I am Antiphon''s demo model: I live in the gateway and need neither a key nor a network. You said: My name is Ada.","annotations":[],"logprobs":[]}]}]');
INSERT INTO "content" VALUES(2,'[{"type":"message","role":"user","content":[{"type":"input_text","text":"I live in Turin."}]}]','[{"type":"message","id":"msg_6b07eecea6bdda2173fd7c0bf3258668cb4e70ac15cba2bd","status":"completed","role":"assistant","content":[{"type":"output_text","text":"You said: I live in Turin. I remember the 2 items before it; this is turn 2.","annotations":[],"logprobs":[]}]}]');
INSERT INTO "content" VALUES(3,'[{"type":"message","role":"user","content":[{"type":"input_text","text":"And what now?"}]}]','[{"type":"compaction","id":"cmp_6b07eece0d09dc409cd9789bf74946283f7f5d655cdc1c63","encrypted_content":"antiphon.1.ec69f14e.FsbSaS_WrkDlhv00TwaIUfKb4zBYwAXmyW4JfqMXbr_fXEbaJOxj1sh6wmPO5-t_oYlpAjn368wzypsN-9zSbRjQqoFG4b3mmwI0Nm3k5rSu5pb4uPKdldxQUuMvpIXu-3HeWNpeI7EQFW8gl7zGMhmhHbRDa6eAut0oU2Uif3jNLQGeUGAQVTKSiFvXTcrAaFZU6xcNTjbhfLsZx4Fzi2NVm0iEsHBzRVBeQCL5MLEFQQeICmeJMntgH1KEzbBhCvnCwW_5G3dbcGOsds5Q0bb46VppMgI-mrxJFnwAp3AZFuQMFsqIPxKBp6vzFDJ2WT9EUCJSP7c4g0OioDKj8sLgQ1Lo5qGUyb6eB8c59dLMw2HAr869hC1j5TAQMdYLWZsmzmuwP_KwJES3Xf_qOhg4YhDNGmNMhLBPC5Sg0yWo1YN11wrEPYTFTjbiMUYJVsrrEYdGAV1eUiI32OBsafpHBzAQEUZA3K8-bPI0H9eiFpRv98Y3ydzftZ9uVKe84kNNuY2dvGLJvR2yHNOyPEHxXuGX_OdayhXHl-Jpm2pwdX_PTczrD39WqucO8JBQyC74mytyPqzo0V7KRHH6nrhz42W-tSRTf1t8EuJur7pLJpra2OjakJPslwx9n9y1P-A0OSGEPAqNcNDkCNiVQS1xDvDAwtAikfBEgWlITKndsK2zW6R4BxI79WaqYwdHkhaSfurcBkXfRe24N3sylFCD3Y7T-bGsuRtKJsMn1S_ZEp8UXVB-KP2BJB5AtOmir5onWu1lZmni1jnI7RXJvujcXWlmhEcn2Y5eY5mS0yCL0WZ8pc3daWa0jT9s5Wdz3cy69qTKuuobYx9Ywr_D0DWiO4n0vdWIjakWxPFm1ruTEQnj4wfT2uCKTkdQkKPR8UI1RwQCdKiHX-VkEp0QAZnbnbR-EwKN1wH9QOKZLPTkOkI5WIptr6w="},{"type":"message","id":"msg_6b07eece590c3cb3f1c60c856c1a55274481cbf8c780e1cb","status":"completed","role":"assistant","content":[{"type":"output_text","text":"You said: And what now? I remember the 3 items before it; this is turn 3.","annotations":[],"logprobs":[]}]}]');
INSERT INTO "content" VALUES(4,'[{"type":"message","role":"user","content":[{"type":"input_text","text":"Go on."}]}]','[{"type":"message","id":"msg_6b07eece5d7b83f25348e5cf12c1aaac1b8ed09d5817507d","status":"completed","role":"assistant","content":[{"type":"output_text","text":"You said: Go on. I remember the 5 items before it; this is turn 4.","annotations":[],"logprobs":[]}]}]');
INSERT INTO "content" VALUES(5,'[]','[{"id":"msg_6b07eece188c1f2dcdb18ecfd74c62dd068b7433b43896e6","type":"message","role":"user","content":[{"type":"input_text","text":"My name is Ada."}],"status":"completed"},{"id":"msg_6b07eeceb5511e6ac930ca6562273bb223b7349c1d66df71","type":"message","role":"user","content":[{"type":"input_text","text":"I live in Turin."}],"status":"completed"},{"type":"compaction","id":"cmp_6b07eecef01b4ae99c3082c2583acf433a770b9187629fd7","encrypted_content":"antiphon.1.ec69f14e.M_ogPvlnGq-WUN5tBe9v0zc89FmISieiAznFsW6gf2wboPtXuN1NYkjS-8SEc-2NzY7LLKAMrqKab5DmDb039seOYl73D-YqNkYu43O1kcwDM0mRytK5gthH__lXSyU8LfP4XLoGmH2th3QHxxdnbqgXAUVKcZ48xq6hUH0uaGTOTqT8OEIh2WMZNO5kbVnONtUGywxzME7AGiE-dbkAwGmFCv35tGXj0C4FyragnJaTay3zFiUk6zom-u65NmlhWM3bNyVDV1Xk5FLc_JaBbjV7AgW7NpzdEFsph2_NCYxotgt0NJUae4eopzuqc71izparci-4007pmwffY6vtLG6Q1a58v8mZpXr62glY-NXVtOj6iw=="}]');
INSERT INTO "content" VALUES(6,'[{"type":"message","role":"user","content":[{"type":"input_text","text":"Another way."}]}]','[{"type":"message","id":"msg_6b07eece3d765847362f4ea62a11f225bd207eac8f992001","status":"completed","role":"assistant","content":[{"type":"output_text","text":"You said: Another way. I remember the 2 items before it; this is turn 2.","annotations":[],"logprobs":[]}]}]');
INSERT INTO "content" VALUES(7,'[{"type":"message","role":"user","content":[{"type":"input_text","text":"Once only."}]}]','[{"type":"message","id":"msg_6b07eece0f64855344a4c19ec038c98627455d53f7439494","status":"completed","role":"assistant","content":[{"type":"output_text","text":"Hello! I am Antiphon''s demo model: I live in the gateway and need neither a key nor a network. You said: Once only.","annotations":[],"logprobs":[]}]}]');
INSERT INTO "content" VALUES(8,'[{"type":"message","role":"user","content":[{"type":"input_text","text":"In a conversation."}]}]','[{"type":"message","id":"msg_6b07eecefd35c101899ee4ef8c75576d6e42c0de24eff602","status":"completed","role":"assistant","content":[{"type":"output_text","text":"You said: In a conversation. I remember the 1 items before it; this is turn 2.","annotations":[],"logprobs":[]}]}]');
INSERT INTO "content" VALUES(9,'[{"type":"message","role":"user","content":[{"type":"input_text","text":"Think."}]}]','[{"type":"message","id":"msg_6b07eece3b440e7e8298b5cce05311377f754b03d4fda14c","status":"completed","role":"assistant","content":[{"type":"output_text","text":"Hello! I am Antiphon''s demo model: I live in the gateway and need neither a key nor a network. You said: Think.","annotations":[],"logprobs":[]}]}]');
CREATE TABLE conversation (
        pk INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, created_at INTEGER NOT NULL, metadata TEXT NOT NULL,
        newest INTEGER NOT NULL
        );
INSERT INTO "conversation" VALUES(1,'conv_6b07eeced682ed7ebba695fab18450da6adc54eb020fa617','admin',1795681998,'{"topic":"old"}',2);
CREATE TABLE conversation_item (
        owner TEXT NOT NULL, id TEXT NOT NULL, conversation INTEGER NOT NULL, position INTEGER NOT NULL,
        PRIMARY KEY (owner, id, conversation)
        ) WITHOUT ROWID;
INSERT INTO "conversation_item" VALUES('admin','msg_6b07eecefbb9c99fab90600e4a3517eee95d8d5536bd05b90000',1,2);
INSERT INTO "conversation_item" VALUES('admin','msg_6b07eecefd0f95af24fea9af3e80160d18d9e7ddb4098cbb',1,1);
INSERT INTO "conversation_item" VALUES('admin','msg_6b07eecefd35c101899ee4ef8c75576d6e42c0de24eff602',1,2);
CREATE TABLE conversation_turn (
        pk INTEGER PRIMARY KEY, conversation INTEGER NOT NULL, position INTEGER NOT NULL, seen INTEGER NOT NULL, compacted INTEGER NOT NULL DEFAULT 0,
        opaque INTEGER NOT NULL DEFAULT 0, response TEXT, status TEXT NOT NULL, channel TEXT, family TEXT, input_tokens INTEGER,
        output_tokens INTEGER, created_at INTEGER NOT NULL, input TEXT NOT NULL, output TEXT NOT NULL,
        CONSTRAINT conversation_position UNIQUE (conversation, position)
        );
INSERT INTO "conversation_turn" VALUES(1,1,1,0,0,0,NULL,'completed',NULL,NULL,NULL,NULL,1795681998,'[{"role":"user","content":"It began here.","type":"message","id":"msg_6b07eecefd0f95af24fea9af3e80160d18d9e7ddb4098cbb"}]','[]');
INSERT INTO "conversation_turn" VALUES(2,1,2,1,0,0,'resp_6b07eecefbb9c99fab90600e4a3517eee95d8d5536bd05b9','completed','demo','demo',54,16,1795681998,'[{"type":"message","role":"user","content":[{"type":"input_text","text":"In a conversation."}],"id":"msg_6b07eecefbb9c99fab90600e4a3517eee95d8d5536bd05b90000"}]','[{"type":"message","id":"msg_6b07eecefd35c101899ee4ef8c75576d6e42c0de24eff602","status":"completed","role":"assistant","content":[{"type":"output_text","text":"You said: In a conversation. I remember the 1 items before it; this is turn 2.","annotations":[],"logprobs":[]}]}]');
CREATE TABLE event (
        response INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, body TEXT NOT NULL,
        kept_at INTEGER NOT NULL, PRIMARY KEY (response, first)
        ) WITHOUT ROWID;
CREATE TABLE huey_task (id INTEGER PRIMARY KEY, queue TEXT NOT NULL, data BLOB NOT NULL, priority REAL NOT NULL);
CREATE TABLE item (owner TEXT NOT NULL, id TEXT NOT NULL, response INTEGER NOT NULL, PRIMARY KEY (owner, id, response)) WITHOUT ROWID;
INSERT INTO "item" VALUES('admin','cmp_6b07eece0d09dc409cd9789bf74946283f7f5d655cdc1c63',3);
INSERT INTO "item" VALUES('admin','cmp_6b07eecef01b4ae99c3082c2583acf433a770b9187629fd7',5);
INSERT INTO "item" VALUES('admin','msg_6b07eece03f4ac8bd7db39bf33de11fb96025d60ada8cb16',1);
INSERT INTO "item" VALUES('admin','msg_6b07eece0f64855344a4c19ec038c98627455d53f7439494',7);
INSERT INTO "item" VALUES('admin','msg_6b07eece188c1f2dcdb18ecfd74c62dd068b7433b43896e6',5);
INSERT INTO "item" VALUES('admin','msg_6b07eece3b440e7e8298b5cce05311377f754b03d4fda14c',9);
INSERT INTO "item" VALUES('admin','msg_6b07eece3d765847362f4ea62a11f225bd207eac8f992001',6);
INSERT INTO "item" VALUES('admin','msg_6b07eece590c3cb3f1c60c856c1a55274481cbf8c780e1cb',3);
INSERT INTO "item" VALUES('admin','msg_6b07eece5d7b83f25348e5cf12c1aaac1b8ed09d5817507d',4);
INSERT INTO "item" VALUES('admin','msg_6b07eecea6bdda2173fd7c0bf3258668cb4e70ac15cba2bd',2);
INSERT INTO "item" VALUES('admin','msg_6b07eeceb5511e6ac930ca6562273bb223b7349c1d66df71',5);
INSERT INTO "item" VALUES('admin','msg_6b07eecefd35c101899ee4ef8c75576d6e42c0de24eff602',8);
CREATE TABLE job (
        response INTEGER PRIMARY KEY, request TEXT NOT NULL, runs INTEGER NOT NULL DEFAULT 0, created_at INTEGER NOT NULL,
        rung_at INTEGER NOT NULL
        );
CREATE TABLE migration_lease (one INTEGER NOT NULL PRIMARY KEY, holder TEXT NOT NULL, lease_until INTEGER NOT NULL);
INSERT INTO "migration_lease" VALUES(1,'4c9f3d89a312e2f2',0);
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
INSERT INTO "response" VALUES(1,'resp_6b07eeceeb51d267266cc8f2acd693e95829cb9544af5a0b','admin',NULL,1,1,0,'completed',1,0,0,0,1,'demo','demo','demo','demo','resp_6b07eeced4ba76be61f6d67c4b13a71098880b8d62c750ea',NULL,'req_04a68da8432524038be568230350bd71',1795681998,1795681998,NULL,NULL,18,25,0,0,25,0,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "response" VALUES(2,'resp_6b07eece553c585378f88aa20e7be3d72d741eca29f0eecd','admin',1,1,2,0,'completed',1,0,0,0,1,'demo','demo','demo','demo','resp_6b07eece906d66836e443ac1f85d3402fcd125da6bac31ff',NULL,'req_0e17c6432c89652aa6cf83ee2dc022cb',1795681998,1795681998,NULL,NULL,1,125,0,0,17,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "response" VALUES(3,'resp_6b07eece14272a5bc6a31f510290b651b4796ddd78cf1ee1','admin',2,1,3,3,'completed',1,0,1,0,1,'demo','demo','demo','demo','resp_6b07eece258f6aefb7e51bf6ba94c917ec8262037454ed49',NULL,'req_dbd63c45d0ac2cd2994dc4dad4e2af33',1795681998,1795681998,NULL,NULL,1,347,0,0,23,0,NULL,NULL,NULL,NULL,'[{"channel":"demo","ms":0,"status":200,"error":null,"path":"bytes"},{"channel":"demo","ms":0,"status":200,"error":null,"path":"bytes"}]','{"strategy":"summary","channel":"demo","before":193,"after":146,"usage":{"input_tokens":179,"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":0},"output_tokens":7,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":186}}',NULL,NULL,NULL,NULL);
INSERT INTO "response" VALUES(4,'resp_6b07eece710c5d5a27934901d524111ac79d66a03090fcea','admin',3,1,4,3,'completed',1,0,0,0,1,'demo','demo','demo','demo','resp_6b07eecee85f52955befe02384787bb9fdc5f1b5a700058b',NULL,'req_8311b02ebdd47644c3148236280cee18',1795681998,1795681998,NULL,NULL,0,256,0,0,15,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "response" VALUES(5,'resp_6b07eece8dbb93390a108c5eb2b94f2e1969f7417603a95c','admin',2,2,3,3,'completed',1,0,1,0,1,'demo','demo',NULL,NULL,NULL,NULL,'req_37aae7c1256aa1184708ebda7a34a857',1795681998,1795681998,NULL,NULL,0,246,0,0,11,0,NULL,NULL,NULL,NULL,NULL,'{"strategy":"summary","channel":"demo","before":193,"after":59,"usage":{"input_tokens":246,"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":0},"output_tokens":11,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":257}}',NULL,NULL,NULL,NULL);
INSERT INTO "response" VALUES(6,'resp_6b07eece52f7552482b1a14c7e7f93cdbff22af12926ce07','admin',1,3,2,0,'completed',1,0,0,0,1,'demo','demo','demo','demo','resp_6b07eece6e4496b86917841e167416d477133b9027acb9d2',NULL,'req_5796efadb42f44e958fdf9d9a8eed5c3',1795681998,1795681998,NULL,NULL,0,124,0,0,15,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "response" VALUES(7,'resp_6b07eecef6f51262d61bba508d9e11f11f8c2687978b6eed','admin',NULL,4,1,0,'completed',1,0,0,0,1,'demo','demo','demo','demo','resp_6b07eecebb647bd6d5476db92a6d87ae82fb87d43893e0eb',NULL,'req_e82e5648b65e82863867d900ffdc4eeb',1795681998,1795681998,NULL,NULL,0,22,0,0,23,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "response" VALUES(8,'resp_6b07eecefbb9c99fab90600e4a3517eee95d8d5536bd05b9','admin',NULL,5,1,0,'completed',1,0,0,0,1,'demo','demo','demo','demo','resp_6b07eece5b7d9c10f2e5827206cc52c104d9aff16e6475f9',NULL,'req_7377010054a8fb79c178c45da7a20cf5',1795681998,1795681998,NULL,NULL,0,54,0,0,16,0,NULL,'{"conversation":{"id":"conv_6b07eeced682ed7ebba695fab18450da6adc54eb020fa617"}}',NULL,NULL,NULL,NULL,NULL,'conv_6b07eeced682ed7ebba695fab18450da6adc54eb020fa617',1,NULL);
INSERT INTO "response" VALUES(9,'resp_6b07eecec84605ce113746d935b54bf2f2f55680978889ca','admin',NULL,6,1,0,'completed',1,0,0,0,1,'demo','demo','demo','demo','resp_6b07eecef2edbc48d004e535ed9e8e579fd6a585a8e88010',NULL,'req_1f29b76b1b3af95343d872f0c8dcf5b3',1795681998,1795681998,NULL,NULL,0,21,0,0,22,0,NULL,'{"reasoning":{"effort":"high","summary":null},"include":["reasoning.encrypted_content"]}',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE schema_version (version INTEGER NOT NULL PRIMARY KEY, applied_at INTEGER NOT NULL);
INSERT INTO "schema_version" VALUES(1,1795681994);
INSERT INTO "schema_version" VALUES(2,1795681994);
INSERT INTO "schema_version" VALUES(3,1795681994);
INSERT INTO "schema_version" VALUES(4,1795681994);
INSERT INTO "schema_version" VALUES(5,1795681994);
INSERT INTO "schema_version" VALUES(6,1795681994);
INSERT INTO "schema_version" VALUES(7,1795681994);
INSERT INTO "schema_version" VALUES(8,1795681994);
CREATE TABLE setting (pk INTEGER PRIMARY KEY, owner TEXT NOT NULL, sha256 TEXT NOT NULL, json TEXT NOT NULL, UNIQUE (owner, sha256));
INSERT INTO "setting" VALUES(1,'admin','fde83854b1b18c74c455caefe0d49b5e6d4585f1ba97ab386fb85ac2a30f1924','{"instructions":"Be brief."}');
CREATE TABLE token (
        pk INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, hash TEXT NOT NULL UNIQUE,
        prefix TEXT NOT NULL, models TEXT NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER,
        revoked_at INTEGER, last_used_at INTEGER, keeps INTEGER NOT NULL DEFAULT 0
        );
INSERT INTO "token" VALUES(1,'admin','admin','3367916b5b2a5faf2950bebf11db0bb5e6cbf54f6013c3f701175553bb8ac90a','ap_9iCJcd','[]',1795681994,NULL,NULL,1795681998,1);
CREATE TABLE usage_day (
        day TEXT NOT NULL, token INTEGER NOT NULL, model TEXT NOT NULL, channel TEXT NOT NULL,
        requests INTEGER NOT NULL, failed INTEGER NOT NULL, estimated INTEGER NOT NULL, input_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL, cache_write_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
        reasoning_tokens INTEGER NOT NULL, PRIMARY KEY (day, token, model, channel)
        ) WITHOUT ROWID;
INSERT INTO "usage_day" VALUES('2026-11-26',1,'demo','demo',9,0,0,1220,0,0,167,0);
CREATE TABLE worker (pk INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, started INTEGER NOT NULL, lease_until INTEGER NOT NULL, status TEXT, status_at INTEGER);
INSERT INTO "worker" VALUES(1,'vm:8566:c373e2bb',1795681998,1795681997,'[]',1795681998);
INSERT INTO "worker" VALUES(2,'vm:8575:e02d2fda',1795681998,1795681997,NULL,NULL);
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
