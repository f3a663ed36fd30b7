-- Figures of the module for redis_exporter, which runs this script. docs/exporter.md describes it.
-- The keys of models and scripts whose figures it shall give. All other clients wait while a server lists all keys for a
-- script, so name them:
local models = {}

local figures = {}
local function add(name, value)
    table.insert(figures, name)
    table.insert(figures, tostring(value))
end
local info = redis.call("INFO", "modules")
for _, name in ipairs({"queued_runs", "queued_bytes", "refused_runs", "backends_memory"}) do
    add(name, string.match(info, "ai_" .. name .. ":(%d+)"))
end
for _, key in ipairs(models) do
    local fields = redis.pcall("AI.INFO", key, "FULL")
    for i = 1, #fields, 2 do
        if type(fields[i + 1]) == "number" then
            add(key .. ":" .. fields[i], fields[i + 1])
        end
    end
end
return figures
