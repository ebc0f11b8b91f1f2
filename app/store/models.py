"""The tables as peewee models, for queries that no request runs. They are bound to no database: `Session.execute` runs
them on its own. The migrations make the schema; a test compares the two.
"""

from __future__ import annotations

import peewee


class Model(peewee.Model):
    class Meta:
        legacy_table_names = False


class Response(Model):
    pk = peewee.BigAutoField()
    id = peewee.CharField()
    owner = peewee.CharField()
    parent = peewee.BigIntegerField(null=True)
    inferred = peewee.BigIntegerField(null=True)
    branch = peewee.BigIntegerField(null=True)
    depth = peewee.BigIntegerField(null=True)
    since = peewee.BigIntegerField()
    status = peewee.CharField()
    kept = peewee.BooleanField()
    streamed = peewee.BooleanField()
    opaque = peewee.BooleanField()
    estimated = peewee.BooleanField()
    token = peewee.BigIntegerField(null=True)
    model = peewee.CharField()
    channel = peewee.CharField(null=True)
    family = peewee.CharField(null=True)
    upstream_model = peewee.CharField(null=True)
    upstream_id = peewee.CharField(null=True)
    worker = peewee.BigIntegerField(null=True)
    request_id = peewee.CharField(null=True)
    created_at = peewee.BigIntegerField()
    completed_at = peewee.BigIntegerField(null=True)
    deleted_at = peewee.BigIntegerField(null=True)
    continued_at = peewee.BigIntegerField(null=True)
    first_byte_ms = peewee.BigIntegerField(null=True)
    total_ms = peewee.BigIntegerField(null=True)
    input_tokens = peewee.BigIntegerField(null=True)
    cached_tokens = peewee.BigIntegerField(null=True)
    cache_write_tokens = peewee.BigIntegerField(null=True)
    output_tokens = peewee.BigIntegerField(null=True)
    reasoning_tokens = peewee.BigIntegerField(null=True)
    settings = peewee.BigIntegerField(null=True)
    echo = peewee.TextField(null=True)
    error = peewee.TextField(null=True)
    incomplete_details = peewee.TextField(null=True)
    attempts = peewee.TextField(null=True)
    compaction = peewee.TextField(null=True)
    conversation = peewee.CharField(null=True)
    seen = peewee.BigIntegerField(null=True)
    prompt = peewee.BlobField(null=True)
    cost = peewee.BigIntegerField(null=True)
    client = peewee.CharField(null=True)
    outline = peewee.TextField(null=True)
    root = peewee.BigIntegerField(null=True)


class Tree(Model):
    root = peewee.BigIntegerField(primary_key=True)
    owner = peewee.CharField()
    first_at = peewee.BigIntegerField()
    newest = peewee.BigIntegerField()
    model = peewee.CharField()
    client = peewee.CharField(null=True)
    context = peewee.BigIntegerField(null=True)
    newest_at = peewee.BigIntegerField()
    turns = peewee.BigIntegerField()
    branches = peewee.BigIntegerField()
    compactions = peewee.BigIntegerField()
    failovers = peewee.BigIntegerField()
    failed = peewee.BigIntegerField()
    cancelled = peewee.BigIntegerField()
    incomplete = peewee.BigIntegerField()
    unstored = peewee.BigIntegerField()
    deleted = peewee.BigIntegerField()
    input_tokens = peewee.BigIntegerField()
    cached_tokens = peewee.BigIntegerField()
    output_tokens = peewee.BigIntegerField()
    cost = peewee.BigIntegerField()
    unpriced = peewee.BigIntegerField()


class Content(Model):
    response = peewee.BigIntegerField(primary_key=True)
    input = peewee.TextField()
    output = peewee.TextField(null=True)


class Branch(Model):
    pk = peewee.BigAutoField()
    parent = peewee.BigIntegerField(null=True)
    fork = peewee.BigIntegerField(null=True)


class Setting(Model):
    pk = peewee.BigAutoField()
    owner = peewee.CharField()
    sha256 = peewee.CharField()
    json = peewee.TextField()


class Item(Model):
    owner = peewee.CharField()
    id = peewee.CharField()
    response = peewee.BigIntegerField()

    class Meta:
        primary_key = peewee.CompositeKey("owner", "id", "response")


class Conversation(Model):
    pk = peewee.BigAutoField()
    id = peewee.CharField()
    owner = peewee.CharField()
    created_at = peewee.BigIntegerField()
    metadata = peewee.TextField()
    newest = peewee.BigIntegerField()


class ConversationTurn(Model):
    pk = peewee.BigAutoField()
    conversation = peewee.BigIntegerField()
    position = peewee.BigIntegerField()
    seen = peewee.BigIntegerField()
    compacted = peewee.BooleanField()
    opaque = peewee.BooleanField()
    response = peewee.CharField(null=True)
    status = peewee.CharField()
    channel = peewee.CharField(null=True)
    family = peewee.CharField(null=True)
    input_tokens = peewee.BigIntegerField(null=True)
    output_tokens = peewee.BigIntegerField(null=True)
    created_at = peewee.BigIntegerField()
    input = peewee.TextField()
    output = peewee.TextField()


class ConversationItem(Model):
    owner = peewee.CharField()
    id = peewee.CharField()
    conversation = peewee.BigIntegerField()
    position = peewee.BigIntegerField()

    class Meta:
        primary_key = peewee.CompositeKey("owner", "id", "conversation")


class RemovedItem(Model):
    conversation = peewee.BigIntegerField()
    position = peewee.BigIntegerField()
    place = peewee.BigIntegerField()

    class Meta:
        primary_key = peewee.CompositeKey("conversation", "position")


class Token(Model):
    pk = peewee.BigAutoField()
    name = peewee.CharField()
    owner = peewee.CharField()
    hash = peewee.CharField()
    prefix = peewee.CharField()
    models = peewee.TextField()
    created_at = peewee.BigIntegerField()
    expires_at = peewee.BigIntegerField(null=True)
    revoked_at = peewee.BigIntegerField(null=True)
    last_used_at = peewee.BigIntegerField(null=True)
    keeps = peewee.BooleanField()
    tools = peewee.TextField(null=True)
    limits = peewee.TextField(null=True)
    retention = peewee.BigIntegerField(null=True)
    metrics = peewee.IntegerField(null=True)
    console = peewee.CharField(null=True)
    last_client = peewee.CharField(null=True)


class ConsoleSession(Model):
    hash = peewee.CharField(primary_key=True)
    token = peewee.BigIntegerField()
    created_at = peewee.BigIntegerField()
    used_at = peewee.BigIntegerField()
    ends_at = peewee.BigIntegerField()


class SignInCode(Model):
    hash = peewee.CharField(primary_key=True)
    token = peewee.BigIntegerField()
    expires_at = peewee.BigIntegerField()


class Audit(Model):
    pk = peewee.BigAutoField()
    at = peewee.BigIntegerField()
    actor = peewee.CharField()
    token = peewee.CharField()
    action = peewee.CharField()
    subject = peewee.CharField()
    owner = peewee.CharField(null=True)
    reason = peewee.TextField(null=True)


class FormerSecret(Model):
    hash = peewee.CharField(primary_key=True)
    token = peewee.BigIntegerField()
    expires_at = peewee.BigIntegerField()


class TokenUse(Model):
    token = peewee.BigIntegerField(primary_key=True)
    minute = peewee.BigIntegerField()
    day = peewee.BigIntegerField()
    month = peewee.BigIntegerField()
    requests = peewee.BigIntegerField()
    tokens = peewee.BigIntegerField()
    day_tokens = peewee.BigIntegerField()
    day_micro = peewee.BigIntegerField()
    month_tokens = peewee.BigIntegerField()
    month_micro = peewee.BigIntegerField()
    running = peewee.BigIntegerField()


class Admission(Model):
    id = peewee.CharField(primary_key=True)
    token = peewee.BigIntegerField()
    worker = peewee.BigIntegerField()


class BudgetNotice(Model):
    token = peewee.BigIntegerField()
    counter = peewee.CharField()
    level = peewee.BigIntegerField()
    since = peewee.BigIntegerField()

    class Meta:
        primary_key = peewee.CompositeKey("token", "counter", "level")


class Alert(Model):
    name = peewee.CharField(primary_key=True)
    state = peewee.CharField()
    changed_at = peewee.BigIntegerField(null=True)


class Worker(Model):
    pk = peewee.BigAutoField()
    name = peewee.CharField()
    started = peewee.BigIntegerField()
    lease_until = peewee.BigIntegerField()
    status = peewee.TextField(null=True)
    status_at = peewee.BigIntegerField(null=True)
    background = peewee.BooleanField()


class Claim(Model):
    token = peewee.BigIntegerField()
    hash = peewee.CharField()
    fingerprint = peewee.CharField()
    response = peewee.CharField()
    worker = peewee.BigIntegerField(null=True)
    created_at = peewee.BigIntegerField()

    class Meta:
        primary_key = peewee.CompositeKey("token", "hash")


class Job(Model):
    response = peewee.BigIntegerField(primary_key=True)
    request = peewee.TextField()
    traceparent = peewee.CharField(null=True)
    tracestate = peewee.TextField(null=True)
    runs = peewee.BigIntegerField()
    created_at = peewee.BigIntegerField()
    rung_at = peewee.BigIntegerField()


class Event(Model):
    response = peewee.BigIntegerField()
    first = peewee.BigIntegerField()
    last = peewee.BigIntegerField()
    body = peewee.TextField()
    kept_at = peewee.BigIntegerField()

    class Meta:
        primary_key = peewee.CompositeKey("response", "first")


class HueyTask(Model):
    """huey's own table of waiting tasks."""

    id = peewee.BigAutoField()
    queue = peewee.CharField()
    data = peewee.BlobField()
    priority = peewee.FloatField()


class Prefix(Model):
    token = peewee.BigIntegerField()
    hash = peewee.CharField()
    response = peewee.BigIntegerField()

    class Meta:
        primary_key = peewee.CompositeKey("token", "hash")


class ThreadTurn(Model):
    response = peewee.BigIntegerField(primary_key=True)
    thread = peewee.CharField()
    question = peewee.CharField(null=True)
    retry_of = peewee.BigIntegerField(null=True)
    started_by = peewee.BigIntegerField(null=True)
    subagent = peewee.CharField(null=True)
    ended_at = peewee.BigIntegerField()


class Remedy(Model):
    hash = peewee.CharField(primary_key=True)
    channel = peewee.CharField()
    model = peewee.TextField()
    digest = peewee.CharField()
    remedy = peewee.TextField()
    learnt_at = peewee.BigIntegerField()


class ToolCall(Model):
    owner = peewee.CharField()
    item_id = peewee.CharField()
    response = peewee.CharField()
    server = peewee.CharField()
    tool = peewee.CharField()
    started_at = peewee.BigIntegerField()
    approval_request = peewee.CharField(null=True)
    ms = peewee.BigIntegerField(null=True)
    bytes = peewee.BigIntegerField(null=True)
    error = peewee.CharField(null=True)
    result = peewee.TextField(null=True)

    class Meta:
        primary_key = peewee.CompositeKey("owner", "item_id")


class _Sums(Model):
    """The counters of the sums by day: `sums.COLUMNS`."""

    requests = peewee.BigIntegerField()
    failed = peewee.BigIntegerField()
    estimated = peewee.BigIntegerField()
    input_tokens = peewee.BigIntegerField()
    cached_tokens = peewee.BigIntegerField()
    cache_write_tokens = peewee.BigIntegerField()
    output_tokens = peewee.BigIntegerField()
    reasoning_tokens = peewee.BigIntegerField()
    cost = peewee.BigIntegerField()
    priced = peewee.BigIntegerField()
    unused = peewee.BigIntegerField()
    first_0 = peewee.BigIntegerField()
    first_1 = peewee.BigIntegerField()
    first_2 = peewee.BigIntegerField()
    first_3 = peewee.BigIntegerField()
    first_4 = peewee.BigIntegerField()
    first_5 = peewee.BigIntegerField()
    first_6 = peewee.BigIntegerField()
    first_7 = peewee.BigIntegerField()
    first_8 = peewee.BigIntegerField()
    first_9 = peewee.BigIntegerField()
    first_10 = peewee.BigIntegerField()
    first_11 = peewee.BigIntegerField()
    first_12 = peewee.BigIntegerField()
    first_13 = peewee.BigIntegerField()
    first_14 = peewee.BigIntegerField()
    first_15 = peewee.BigIntegerField()
    total_0 = peewee.BigIntegerField()
    total_1 = peewee.BigIntegerField()
    total_2 = peewee.BigIntegerField()
    total_3 = peewee.BigIntegerField()
    total_4 = peewee.BigIntegerField()
    total_5 = peewee.BigIntegerField()
    total_6 = peewee.BigIntegerField()
    total_7 = peewee.BigIntegerField()
    total_8 = peewee.BigIntegerField()
    total_9 = peewee.BigIntegerField()
    total_10 = peewee.BigIntegerField()
    total_11 = peewee.BigIntegerField()
    total_12 = peewee.BigIntegerField()
    total_13 = peewee.BigIntegerField()
    total_14 = peewee.BigIntegerField()
    total_15 = peewee.BigIntegerField()


class UsageDay(_Sums):
    day = peewee.CharField()
    token = peewee.BigIntegerField()
    model = peewee.CharField()
    channel = peewee.CharField()

    class Meta:
        primary_key = peewee.CompositeKey("day", "token", "model", "channel")


class UsageClient(_Sums):
    day = peewee.CharField()
    client = peewee.CharField()

    class Meta:
        primary_key = peewee.CompositeKey("day", "client")


class UsageTool(Model):
    day = peewee.CharField()
    server = peewee.CharField()
    tool = peewee.CharField()
    calls = peewee.BigIntegerField()
    failed = peewee.BigIntegerField()
    ms = peewee.BigIntegerField()
    bytes = peewee.BigIntegerField()
    took_0 = peewee.BigIntegerField()
    took_1 = peewee.BigIntegerField()
    took_2 = peewee.BigIntegerField()
    took_3 = peewee.BigIntegerField()
    took_4 = peewee.BigIntegerField()
    took_5 = peewee.BigIntegerField()
    took_6 = peewee.BigIntegerField()
    took_7 = peewee.BigIntegerField()
    took_8 = peewee.BigIntegerField()
    took_9 = peewee.BigIntegerField()
    took_10 = peewee.BigIntegerField()
    took_11 = peewee.BigIntegerField()
    took_12 = peewee.BigIntegerField()
    took_13 = peewee.BigIntegerField()
    took_14 = peewee.BigIntegerField()
    took_15 = peewee.BigIntegerField()

    class Meta:
        primary_key = peewee.CompositeKey("day", "server", "tool")


class UsageSlot(Model):
    slot = peewee.BigIntegerField()
    channel = peewee.CharField()
    requests = peewee.BigIntegerField()
    failed = peewee.BigIntegerField()
    input_tokens = peewee.BigIntegerField()
    output_tokens = peewee.BigIntegerField()
    cost = peewee.BigIntegerField()
    first_0 = peewee.BigIntegerField()
    first_1 = peewee.BigIntegerField()
    first_2 = peewee.BigIntegerField()
    first_3 = peewee.BigIntegerField()
    first_4 = peewee.BigIntegerField()
    first_5 = peewee.BigIntegerField()
    first_6 = peewee.BigIntegerField()
    first_7 = peewee.BigIntegerField()
    first_8 = peewee.BigIntegerField()
    first_9 = peewee.BigIntegerField()
    first_10 = peewee.BigIntegerField()
    first_11 = peewee.BigIntegerField()
    first_12 = peewee.BigIntegerField()
    first_13 = peewee.BigIntegerField()
    first_14 = peewee.BigIntegerField()
    first_15 = peewee.BigIntegerField()
    errors = peewee.BigIntegerField()
    cooldowns = peewee.BigIntegerField()

    class Meta:
        primary_key = peewee.CompositeKey("slot", "channel")


class UsageHour(Model):
    hour = peewee.BigIntegerField()
    token = peewee.BigIntegerField()
    model = peewee.CharField()
    channel = peewee.CharField()
    client = peewee.CharField()
    requests = peewee.BigIntegerField()
    failed = peewee.BigIntegerField()
    input_tokens = peewee.BigIntegerField()
    cached_tokens = peewee.BigIntegerField()
    output_tokens = peewee.BigIntegerField()
    cost = peewee.BigIntegerField()
    priced = peewee.BigIntegerField()
    unused = peewee.BigIntegerField()
    first_0 = peewee.BigIntegerField()
    first_1 = peewee.BigIntegerField()
    first_2 = peewee.BigIntegerField()
    first_3 = peewee.BigIntegerField()
    first_4 = peewee.BigIntegerField()
    first_5 = peewee.BigIntegerField()
    first_6 = peewee.BigIntegerField()
    first_7 = peewee.BigIntegerField()
    first_8 = peewee.BigIntegerField()
    first_9 = peewee.BigIntegerField()
    first_10 = peewee.BigIntegerField()
    first_11 = peewee.BigIntegerField()
    first_12 = peewee.BigIntegerField()
    first_13 = peewee.BigIntegerField()
    first_14 = peewee.BigIntegerField()
    first_15 = peewee.BigIntegerField()

    class Meta:
        primary_key = peewee.CompositeKey("hour", "token", "model", "channel", "client")


class ChannelPause(Model):
    channel = peewee.CharField(primary_key=True)
    began_at = peewee.BigIntegerField()
    ends_at = peewee.BigIntegerField(null=True)
    actor = peewee.CharField()
    reason = peewee.TextField()


class RecentError(Model):
    pk = peewee.BigAutoField()
    kind = peewee.CharField()
    name = peewee.CharField()
    at = peewee.BigIntegerField()
    status = peewee.BigIntegerField(null=True)
    code = peewee.CharField()
    message = peewee.TextField()
    owner = peewee.CharField()
    response = peewee.BigIntegerField(null=True)


TABLES = (
    Response,
    Tree,
    Content,
    Branch,
    Setting,
    Item,
    Conversation,
    ConversationTurn,
    ConversationItem,
    RemovedItem,
    Token,
    ConsoleSession,
    SignInCode,
    Audit,
    FormerSecret,
    TokenUse,
    Admission,
    BudgetNotice,
    Alert,
    Worker,
    Claim,
    Job,
    Event,
    HueyTask,
    Prefix,
    ThreadTurn,
    Remedy,
    ToolCall,
    UsageDay,
    UsageClient,
    UsageTool,
    UsageSlot,
    UsageHour,
    ChannelPause,
    RecentError,
)
