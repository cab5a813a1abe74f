# Allow messages within same organization
allow {
    input.sender.organization_id == input.recipient.organization_id
}
